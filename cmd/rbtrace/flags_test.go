// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseRingSize(t *testing.T) {
	for text, want := range map[string]uint32{
		"4096": 4096, "512K": 512 << 10, "512k": 512 << 10, "8M": 8 << 20, "8MiB": 8 << 20,
		"8mib": 8 << 20, "8MB": 8 << 20, "1G": 1 << 30, "65536B": 65536, "1048576": 1 << 20,
	} {
		if uint64(want) < uint64(os.Getpagesize()) {
			continue
		}
		got, err := parseRingSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for text, hint := range map[string]string{
		"300K":                  "256K and 512K",
		"3M":                    "2M and 4M",
		"4G":                    "2G",
		"0":                     "nearest",
		"":                      "no size",
		"-8M":                   "no size",
		"8X":                    "no size",
		"8.5M":                  "no size",
		"M":                     "no size",
		"99999999999999999999":  "no size",
		"18014398509481984K":    "no size", // 2^64
		"9223372036854775808KB": "no size",
	} {
		_, err := parseRingSize(text)
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: %v; want something about %q", text, err, hint)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[uint64]string{1: "1", 4096: "4K", 8 << 20: "8M", 2 << 30: "2G", 4097: "4097"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"5": 5 * time.Second, "0.5": 500 * time.Millisecond, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second,
	} {
		var s seconds
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(s), err)
		}
	}
	for _, text := range []string{"", "x", "-1", "-1s", "NaN", "Inf", "1e300", "5 s"} {
		var s seconds
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for %v", text, time.Duration(s))
		}
	}
}
