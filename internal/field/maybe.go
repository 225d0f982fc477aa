package field

// Maybe is a Bool that not every hook of a tracer tells.
type Maybe struct {
	Known, Yes bool
}

// AppendText implements Value: yes or no, - where it is not known.
func (m Maybe) AppendText(b []byte) []byte {
	if !m.Known {
		return append(b, '-')
	}
	return Bool(m.Yes).AppendText(b)
}

// AppendJSON implements Value: a string, yes or no, empty where it is not known.
func (m Maybe) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if m.Known {
		b = Bool(m.Yes).AppendText(b)
	}
	return append(b, '"')
}
