// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// lookupUser finds a user by number or name. u is nil where this machine does not know
// the number.
func lookupUser(name string) (uid uint32, u *user.User, err error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil && id != math.MaxUint32 {
		if u, err = user.LookupId(name); err != nil {
			u = askForUser(name)
		}
		return uint32(id), u, nil
	}
	if u, err = user.Lookup(name); err != nil {
		if u = askForUser(name); u == nil {
			return 0, nil, fmt.Errorf("no user %q on this machine (a number works without one)", name)
		}
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(id), u, err
}

// askForUser asks the C library's getent, as users may be elsewhere than in /etc/passwd, where a static program finds
// them: in LDAP, say, by /etc/nsswitch.conf. nil: it knows none.
func askForUser(name string) *user.User {
	out, err := exec.Command("getent", "passwd", "--", name).Output()
	fields := strings.Split(string(out), ":") // name:password:uid:gid:...
	if err != nil || len(fields) < 4 {
		return nil
	}
	return &user.User{Username: fields[0], Uid: fields[2], Gid: fields[3]}
}

// groupsOf returns the groups that a user is in, the main one first: as getent knows them, which looks everywhere,
// or else as /etc/group has them.
func groupsOf(u *user.User) ([]string, error) {
	out, err := exec.Command("getent", "initgroups", "--", u.Username).Output()
	others, ok := strings.CutPrefix(string(out), u.Username)
	if err != nil || !ok {
		return u.GroupIds()
	}
	groups := []string{u.Gid}
	for id := range strings.FieldsSeq(others) {
		if id != u.Gid {
			groups = append(groups, id)
		}
	}
	return groups, nil
}

// credential is that of a user by number or name: with the user's groups, where
// this machine knows them.
func credential(name string) (*syscall.Credential, error) {
	uid, u, err := lookupUser(name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return &syscall.Credential{Uid: uid, Gid: uid}, nil
	}
	ids, err := groupsOf(u)
	if err != nil {
		return nil, fmt.Errorf("looking up the groups of %s: %w", name, err)
	}
	var numbers []uint32
	for _, id := range append([]string{u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", name, err)
		}
		numbers = append(numbers, uint32(n))
	}
	return &syscall.Credential{Uid: uid, Gid: numbers[0], Groups: numbers[1:]}, nil
}
