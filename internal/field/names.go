package field

import "strings"

// nameOf returns the name of n in a table that has them by number, which may leave out some; empty
// where there is none.
func nameOf(names []string, n int64) string {
	if n < 0 || n >= int64(len(names)) {
		return ""
	}
	return names[n]
}

// numberOf is the other way round, for a name as people give it: in any case, and with or without
// the prefix that all of them have.
func numberOf(names []string, prefix, name string) (uint64, bool) {
	if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
		name = name[len(prefix):]
	}
	if name == "" {
		return 0, false
	}
	for i, n := range names {
		if strings.EqualFold(n, name) {
			return uint64(i), true
		}
	}
	return 0, false
}
