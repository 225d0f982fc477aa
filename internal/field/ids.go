package field

import "strconv"

// IDs are the user ids of a process, or its group ids.
type IDs struct {
	Real, Effective, Saved, FS uint32
}

// AppendText implements Value: real/effective/saved, the file system's behind them where that is not
// the effective one, and one number where all are the same.
func (i IDs) AppendText(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(i.Real), 10)
	if i.Effective == i.Real && i.Saved == i.Real && i.FS == i.Real {
		return b
	}
	b = strconv.AppendUint(append(b, '/'), uint64(i.Effective), 10)
	b = strconv.AppendUint(append(b, '/'), uint64(i.Saved), 10)
	if i.FS != i.Effective {
		b = strconv.AppendUint(append(b, '/'), uint64(i.FS), 10)
	}
	return b
}

// AppendJSON implements Value: a string with the same.
func (i IDs) AppendJSON(b []byte) []byte {
	return append(i.AppendText(append(b, '"')), '"')
}

// Groups are the supplementary groups of a process.
type Groups struct {
	// IDs are the first of them, at least one if there is any.
	IDs []uint32
	// Count is how many there are.
	Count uint32
}

// AppendText implements Value: the ids with commas between, … for those that are not known, - where
// there are none.
func (g Groups) AppendText(b []byte) []byte {
	if g.Count == 0 {
		return append(b, '-')
	}
	for i, id := range g.IDs {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	if uint64(g.Count) > uint64(len(g.IDs)) {
		b = append(b, ",…"...)
	}
	return b
}

// AppendJSON implements Value: a string with the same.
func (g Groups) AppendJSON(b []byte) []byte {
	return append(g.AppendText(append(b, '"')), '"')
}
