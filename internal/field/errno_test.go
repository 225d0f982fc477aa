package field

import (
	"math"
	"testing"
)

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		e          Errno
		text, json string
	}{
		{0, "0", `""`},
		{3, "3", `""`},
		{math.MaxInt32, "2147483647", `""`},
		{-1, "EPERM", `"EPERM"`},
		{-2, "ENOENT", `"ENOENT"`},
		{-11, "EAGAIN", `"EAGAIN"`},
		{-35, "EDEADLK", `"EDEADLK"`},
		{-95, "EOPNOTSUPP", `"EOPNOTSUPP"`},
		{-133, "EHWPOISON", `"EHWPOISON"`},
		{-512, "ERESTARTSYS", `"ERESTARTSYS"`},
		{-516, "ERESTART_RESTARTBLOCK", `"ERESTART_RESTARTBLOCK"`},
		{-520, "E520", `"E520"`},
		{-524, "ENOTSUPP", `"ENOTSUPP"`},
		{-531, "ENOGRACE", `"ENOGRACE"`},
		{-1234, "E1234", `"E1234"`},
		{math.MinInt32, "E2147483648", `"E2147483648"`},
	} {
		check(t, &c.e, c.text, c.json)
	}
}

// Nothing that the kernel may return as an error makes an unsafe cell or bad JSON.
func TestErrnoAll(t *testing.T) {
	for n := range 4096 {
		e := Errno(-n)
		checkCell(t, e.AppendText(nil))
		checkJSON(t, e.AppendJSON(nil))
	}
}
