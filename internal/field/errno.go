package field

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Errno is what a kernel function or system call returned: an error when it is below zero, else
// (a descriptor, a count, 0) none.
type Errno int32

// AppendText implements Value: the error's name as the kernel spells it, E and the number for one
// that has no name (E1234), the number itself when it is no error.
func (e Errno) AppendText(b []byte) []byte {
	if e >= 0 {
		return strconv.AppendInt(b, int64(e), 10)
	}
	return e.appendName(b)
}

// AppendJSON implements Value: a string, the error's name as in AppendText, empty when it is no
// error.
func (e Errno) AppendJSON(b []byte) []byte {
	b = append(b, '"')
	if e < 0 {
		b = e.appendName(b)
	}
	return append(b, '"')
}

func (e Errno) appendName(b []byte) []byte {
	n := -int64(e) // as int64, for -math.MinInt32 is no int32
	if name := errnoName(n); name != "" {
		return append(b, name...)
	}
	return strconv.AppendInt(append(b, 'E'), n, 10)
}

func errnoName(n int64) string {
	// The errors that stay inside the kernel, include/linux/errno.h. A probe sees them where user
	// space does not: a signal turns ERESTARTSYS into a restart or EINTR on the way out.
	switch n {
	case 512:
		return "ERESTARTSYS"
	case 513:
		return "ERESTARTNOINTR"
	case 514:
		return "ERESTARTNOHAND"
	case 515:
		return "ENOIOCTLCMD"
	case 516:
		return "ERESTART_RESTARTBLOCK"
	case 517:
		return "EPROBE_DEFER"
	case 518:
		return "EOPENSTALE"
	case 519:
		return "ENOPARAM"
	case 521:
		return "EBADHANDLE"
	case 522:
		return "ENOTSYNC"
	case 523:
		return "EBADCOOKIE"
	case 524:
		return "ENOTSUPP"
	case 525:
		return "ETOOSMALL"
	case 526:
		return "ESERVERFAULT"
	case 527:
		return "EBADTYPE"
	case 528:
		return "EJUKEBOX"
	case 529:
		return "EIOCBQUEUED"
	case 530:
		return "ERECALLCONFLICT"
	case 531:
		return "ENOGRACE"
	case int64(unix.EOPNOTSUPP):
		return "EOPNOTSUPP" // x/sys gives it the C library's other name, ENOTSUP
	}
	return unix.ErrnoName(unix.Errno(n))
}
