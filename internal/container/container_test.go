// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// id returns an id that begins so.
func id(begin string) string { return begin + strings.Repeat("0", idLength-len(begin)) }

func TestCgroup(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{
		"system.slice/docker-" + id("aaaa1") + ".scope/init.scope",
		"docker/" + id("aaaa2"),
		"machine.slice/libpod-" + id("bbbb") + ".scope/container",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-" + id("cccc") + ".scope",
		"kubepods.slice/crio-" + id("dddd") + ".scope",
		"system.slice:docker:" + id("eeee"),
		"lxc/box",
		"lxc.payload.crate/system.slice",
		`machine.slice/machine-my\x2dhost.scope`,
		"twice/docker-" + id("ffff") + ".scope", "again/docker-" + id("ffff") + ".scope",
		"system.slice/ssh.service", "user.slice/aaaa3",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := &Finder{Cgroups: root, Docker: filepath.Join(t.TempDir(), "docker"), Podman: filepath.Join(t.TempDir(), "containers.json")}
	for name, config := range map[string]string{
		"web":    `{"ID":"` + id("aaaa1") + `","Name":"/web","State":{}}`,
		"ended":  `{"ID":"` + id("9999") + `","Name":"/ended"}`,
		"broken": `{"ID":`,
	} {
		if err := os.MkdirAll(filepath.Join(f.Docker, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.Docker, name, "config.v2.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.Podman, []byte(`[{"id":"`+id("bbbb")+`","names":["db","database"]},{"id":"x"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"web":       "system.slice/docker-" + id("aaaa1") + ".scope",
		"aaaa2":     "docker/" + id("aaaa2"),
		id("aaaa2"): "docker/" + id("aaaa2"),
		"database":  "machine.slice/libpod-" + id("bbbb") + ".scope",
		"cccc00":    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-" + id("cccc") + ".scope",
		"dddd":      "kubepods.slice/crio-" + id("dddd") + ".scope",
		"eeee":      "system.slice:docker:" + id("eeee"),
		"box":       "lxc/box",
		"crate":     "lxc.payload.crate",
		"my-host":   `machine.slice/machine-my\x2dhost.scope`,
	} {
		got, err := f.Cgroup(name)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("%s: %q, %v; want %s", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"aaaa":        `"aaaa" may be any of ` + id("aaaa1") + ", " + id("aaaa2"),
		"ffff":        "has several cgroups",
		"ended":       "no such container that runs",
		"nothing":     "no such container as",
		"ssh.service": "no such container as",
		"aaa":         "no such container as", // too short to be meant for an id
		"aaaa3":       "no such container that runs",
		"":            "no such container as",
	} {
		if got, err := f.Cgroup(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %s", name, got, err, want)
		}
	}
	if _, err := f.Cgroup("nothing"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	f.Cgroups = filepath.Join(root, "not", "there")
	if _, err := f.Cgroup("web"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("without a hierarchy: %v", err)
	}
}
