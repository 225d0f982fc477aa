// SPDX-License-Identifier: Apache-2.0

// Package container finds the cgroup of a container by its name or id: from the
// names that container managers give to cgroups, and from their own records of
// names, where these are files that can be read.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// idLength is how many hexadecimal digits an id of Docker, Podman, containerd and
// CRI-O has.
const idLength = 64

// shortest is how many digits of an id are enough to look for.
const shortest = 4

// ErrNotFound says that there is no container of that name or id.
var ErrNotFound = errors.New("no such container")

// Finder knows where to look.
type Finder struct {
	Cgroups string // where the unified hierarchy is mounted
	Docker  string // Docker's directory of containers
	Podman  string // Podman's list of containers
}

// NewFinder returns a Finder for this machine, as root sees it.
func NewFinder(cgroups string) *Finder {
	return &Finder{
		Cgroups: cgroups,
		Docker:  "/var/lib/docker/containers",
		Podman:  "/var/lib/containers/storage/overlay-containers/containers.json",
	}
}

// Cgroup returns the directory of the cgroup of a running container. name is that
// which Docker, Podman, LXC or systemd-nspawn know it by, or an id or the first digits
// of one, as any manager knows it. The error wraps ErrNotFound where there is none.
func (f *Finder) Cgroup(name string) (string, error) {
	ids := f.ids(name)
	if isHex(name) && len(name) >= shortest && len(name) <= idLength {
		ids = append(ids, name)
	}
	found := make(map[string][]string) // directories, by what their names say that they are of
	err := filepath.WalkDir(f.Cgroups, func(dir string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && entry != nil && dir != f.Cgroups:
			return fs.SkipDir // gone, or not ours to look at
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		}
		of := containerOf(dir)
		hit := of == name
		if len(of) == idLength && isHex(of) {
			hit = slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(of, id) })
		}
		if of == "" || !hit {
			return nil
		}
		found[of] = append(found[of], dir)
		return fs.SkipDir // what is below is the container's own
	})
	if err != nil {
		return "", fmt.Errorf("looking for cgroups of containers: %w", err)
	}
	var names, dirs []string
	for of, in := range found {
		names, dirs = append(names, of), append(dirs, in...)
	}
	slices.Sort(names)
	switch {
	case len(names) > 1:
		return "", fmt.Errorf("%q may be any of %s: write more of it", name, strings.Join(names, ", "))
	case len(dirs) > 1:
		slices.Sort(dirs)
		for i, dir := range dirs { // anybody may have named what is above a container's
			dirs[i] = strconv.Quote(dir)
		}
		return "", fmt.Errorf("%q has several cgroups, so take one of them with --cgroup: %s", name, strings.Join(dirs, ", "))
	case len(dirs) == 1:
		return dirs[0], nil
	case len(ids) > 0:
		return "", fmt.Errorf("%w that runs: no cgroup below %s is of %q (%s)", ErrNotFound, f.Cgroups, name, strings.Join(ids, ", "))
	}
	return "", fmt.Errorf("%w as %q: neither a cgroup below %s, nor Docker, nor Podman know it (containers of Kubernetes: give the id)", ErrNotFound, name, f.Cgroups)
}

// containerOf returns the id or name of the container that a cgroup of that path is
// for, to judge by how managers name cgroups; empty where it is for none.
//
//	docker-ID.scope libpod-ID.scope cri-containerd-ID.scope crio-ID.scope ID   and below lxc: NAME
//	machine-NAME.scope lxc.payload.NAME
func containerOf(dir string) string {
	base := filepath.Base(dir)
	if name, ok := strings.CutPrefix(base, "lxc.payload."); ok {
		return name
	}
	if filepath.Base(filepath.Dir(dir)) == "lxc" {
		return base
	}
	unit, scope := strings.CutSuffix(base, ".scope")
	if name, ok := strings.CutPrefix(unit, "machine-"); ok && scope {
		return unescapeUnit(name)
	}
	// systemd's unit, or a cgroup that the manager made itself: SLICE:MANAGER:ID.
	id := unit[strings.LastIndexAny(unit, "-:")+1:]
	if len(id) == idLength && isHex(id) {
		return id
	}
	return ""
}

// unescapeUnit undoes what systemd does to names that become part of a unit's: \x2d.
func unescapeUnit(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) && s[i+1] == 'x' {
			var c byte
			if _, err := fmt.Sscanf(s[i+2:i+4], "%02x", &c); err == nil {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// ids returns the ids of the containers that Docker and Podman know by that name. What
// cannot be read tells none.
func (f *Finder) ids(name string) (ids []string) {
	files, _ := filepath.Glob(filepath.Join(f.Docker, "*", "config.v2.json"))
	for _, file := range files {
		var config struct{ ID, Name string }
		if readJSON(file, &config) == nil && strings.TrimPrefix(config.Name, "/") == name {
			ids = append(ids, config.ID)
		}
	}
	var podman []struct {
		ID    string   `json:"id"`
		Names []string `json:"names"`
	}
	_ = readJSON(f.Podman, &podman)
	for _, c := range podman {
		if slices.Contains(c.Names, name) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
