package field

// PathSource is where a path begins that a call was given: enum rb_source of
// bpf/include/rbtrace/file.h.
type PathSource uint8

// The sources.
const (
	SourceUnresolved PathSource = iota // nobody knows
	SourceAbsolute                     // at the root
	SourceCwd                          // at the working directory
	SourceDirfd                        // at the directory that a descriptor refers to
	SourceText                         // nowhere: it is a text
	SourceOpened                       // nowhere: it is that of what was opened
	pathSources                        // their number
)

// Valid reports whether it is one of the sources.
func (s PathSource) Valid() bool { return s < pathSources }

func (s PathSource) name() string {
	switch s {
	case SourceAbsolute:
		return "absolute"
	case SourceCwd:
		return "cwd"
	case SourceDirfd:
		return "dirfd"
	case SourceText:
		return "text"
	case SourceOpened:
		return "opened"
	}
	return "unresolved"
}

// AppendText implements Value.
func (s PathSource) AppendText(b []byte) []byte { return append(b, s.name()...) }

// AppendJSON implements Value: a string.
func (s PathSource) AppendJSON(b []byte) []byte {
	return append(append(append(b, '"'), s.name()...), '"')
}
