// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rbtrace/rbtrace/internal/ringmetrics"
	"github.com/rbtrace/rbtrace/internal/ringquery"
)

const (
	// scrapeLimit is how long a scrape may take: less than the 10 s after which Prometheus
	// gives up by default, so that it learns the reason.
	scrapeLimit = 9 * time.Second
	// lookLimit leaves a scrape time for the rest, and for that of another that it may
	// have to wait for.
	lookLimit = 4 * time.Second
	// shutdownLimit is how long the end waits for scrapes that are under way.
	shutdownLimit = 2 * time.Second
)

const listenHelp = `--listen exports the same figures on http://ADDRESS/metrics for Prometheus, until it is ended
by a signal; docs/metrics.md tells of the metrics. Each scrape takes a snapshot, whose verdicts
are on the time since the scrape before. A scrape that can show no ring where it should is
answered with status 500, one that shows some of them has rbtrace_scrape_success 0. A port alone
(9435 or :9435) is that of 127.0.0.1; whoever may connect to another address sees the metrics.`

// notWithListen are the flags that say how rings are printed, and when that ends.
var notWithListen = []struct{ flag, reason string }{
	{"watch", "whoever scrapes says when"},
	{"count", "it goes on until it is ended"},
	{"peek", "records are no metrics"},
	{"output", "metrics are in Prometheus's format"},
	{"columns", "all metrics are exported"},
	{"fail-above", "it goes on until it is ended; let an alert rule look at rbtrace_ringbuf_fill_ratio"},
	{"fail-on", "it goes on until it is ended; let an alert rule look at rbtrace_ringbuf_verdict"},
}

// parseListen checks --listen.
func (r *queryRun) parseListen() error {
	if !r.changed("listen") {
		return nil
	}
	if _, err := listenAddress(r.flags.listen); err != nil {
		return usagef("--listen: %w", err)
	}
	for _, other := range notWithListen {
		if r.changed(other.flag) {
			return usagef("--%s: not with --listen: %s", other.flag, other.reason)
		}
	}
	if look := time.Duration(r.flags.look); look > lookLimit {
		return usagef("--look: with --listen at most %s, as each scrape waits for it", lookLimit)
	}
	return nil
}

// listenAddress completes an address. A port alone is one of the loopback: who is to see
// the machine's ring buffers from elsewhere must be let in by name.
func listenAddress(text string) (string, error) {
	host, port := "", text
	if _, err := strconv.ParseUint(text, 10, 64); err != nil {
		if host, port, err = net.SplitHostPort(text); err != nil {
			return "", fmt.Errorf("%q is no address: write 127.0.0.1:9435, or [::1]:9435", text)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("%q has no port from 0 to 65535", text)
	} else if port = strconv.FormatUint(n, 10); host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// listen takes the address of --listen; nil without the flag.
func (r *queryRun) listen(ctx context.Context) (net.Listener, error) {
	if !r.changed("listen") {
		return nil, nil
	}
	address, err := listenAddress(r.flags.listen)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	switch errno, _ := errors.AsType[unix.Errno](err); {
	case err == nil:
		return listener, nil
	case errno == unix.EADDRINUSE:
		return nil, fmt.Errorf("listening on %s: another program does already: end it, or choose another port", address)
	case errno != 0:
		return nil, fmt.Errorf("listening on %s: %w", address, errno)
	default:
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
}

// limited is a Querier whose snapshots come with the reason why they do not have all
// rings. Who looks at metrics does not see what was said at the start.
type limited struct{ *ringquery.Querier }

func (l limited) Snapshot(ctx context.Context, request ringquery.Request) (*ringquery.Snapshot, error) {
	s, err := l.Querier.Snapshot(ctx, request)
	// Those that are named are there, or missed already.
	if s != nil && len(request.Select.Pins) == 0 && len(request.Select.IDs) == 0 {
		err = errors.Join(err, l.Limit())
	}
	return s, err
}

// serve exports the rings as metrics until ctx is done.
func (r *queryRun) serve(ctx context.Context, q *ringquery.Querier, listener net.Listener) error {
	request := r.request
	request.Details, request.Look = true, time.Duration(r.flags.look)
	exporter := ringmetrics.New(limited{q}, ringmetrics.Options{
		Request: request, Limit: scrapeLimit, Version: buildVersion(),
		Failed: func(err error) { r.warn("%v", err) },
	})
	defer exporter.Close()
	server := &http.Server{
		Handler:           exporter.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second, // a scrape has no body
		WriteTimeout:      scrapeLimit + 5*time.Second,
		IdleTimeout:       5 * time.Minute, // scrapers keep their connection from one minute to the next
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(r.Err, "rbtrace: ", 0),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	r.warn("listening on http://%s/metrics", listener.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("serving metrics: %w", err)
	case <-ctx.Done():
	}
	// A second signal ends it at once.
	signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	if server.Shutdown(bound) != nil { // someone does not take the answer
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}
