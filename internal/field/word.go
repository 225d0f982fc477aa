package field

// Word is one of a few words that are rbtrace's own, such as the name of a system call. It stands for
// itself in a table, and is a string in JSON.
type Word string

// AppendText implements Value.
func (w Word) AppendText(b []byte) []byte { return append(b, w...) }

// AppendJSON implements Value.
func (w Word) AppendJSON(b []byte) []byte { return append(append(append(b, '"'), w...), '"') }

// WordOf returns the word in that place, or nothing where there is none.
func WordOf[N ~uint32](words []Word, n N) Word {
	if uint64(n) < uint64(len(words)) {
		return words[n]
	}
	return ""
}
