package field

import "testing"

func TestFlags(t *testing.T) {
	check(t, &Flags{}, "-", "[]")
	check(t, &Flags{Bits: 0x200, Names: UnlinkFlags}, "AT_REMOVEDIR", `["AT_REMOVEDIR"]`)
	check(t, &Flags{Bits: 0x80000201, Names: UnlinkFlags}, "AT_REMOVEDIR|0x80000001", `["AT_REMOVEDIR","0x80000001"]`)
	check(t, &Flags{Bits: 3}, "0x3", `["0x3"]`)
}

func TestWord(t *testing.T) {
	check(t, new(Word("")), "", `""`)
	check(t, new(Word("fsync")), "fsync", `"fsync"`)
	words := []Word{"a", "b"}
	for n, want := range []Word{"a", "b", "", ""} {
		if got := WordOf(words, uint32(n)); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestPathSource(t *testing.T) {
	for source, want := range map[PathSource]string{
		SourceText: "text", SourceOpened: "opened", SourceUnresolved: "unresolved", SourceAbsolute: "absolute", SourceCwd: "cwd", SourceDirfd: "dirfd", 200: "unresolved",
	} {
		check(t, new(source), want, `"`+want+`"`)
	}
}
