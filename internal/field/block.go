package field

import (
	"math"
	"strconv"

	"golang.org/x/sys/unix"
)

// BlockOp is what a request is to do: enum req_op of include/linux/blk_types.h.
type BlockOp uint32

// BlockFlags are those of a request that people look for: enum bio_flags of bpf/bio.bpf.c.
type BlockFlags uint32

var blockFlags = []flagName{
	{1 << 0, "sync"}, {1 << 1, "meta"}, {1 << 2, "prio"}, {1 << 3, "fua"}, {1 << 4, "preflush"}, {1 << 5, "ahead"},
}

func (o BlockOp) append(b []byte) []byte {
	// Those that mean the same in all kernels; the zones' have moved.
	switch o {
	case 0:
		return append(b, "read"...)
	case 1:
		return append(b, "write"...)
	case 2:
		return append(b, "flush"...)
	case 3:
		return append(b, "discard"...)
	case 5:
		return append(b, "secure_erase"...)
	case 9:
		return append(b, "write_zeroes"...)
	case 34:
		return append(b, "drv_in"...)
	case 35:
		return append(b, "drv_out"...)
	}
	return strconv.AppendUint(b, uint64(o), 10)
}

// AppendText implements Value: its name, or its number where it has none.
func (o BlockOp) AppendText(b []byte) []byte { return o.append(b) }

// AppendJSON implements Value: a string with the same.
func (o BlockOp) AppendJSON(b []byte) []byte { return append(o.append(append(b, '"')), '"') }

// AppendText implements Value: the names with | between, and - where there are none.
func (f BlockFlags) AppendText(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	return appendFlags(b, uint64(f), blockFlags, "|", "", true)
}

// AppendJSON implements Value: an array of the same as strings.
func (f BlockFlags) AppendJSON(b []byte) []byte {
	return append(appendFlags(append(b, '['), uint64(f), blockFlags, ",", `"`, true), ']')
}

// BlockStatus returns the error that a status of the tracepoint block_rq_complete means:
// negative in older kernels an Errno, else a blk_status_t, of which programs see what
// blk_status_to_errno makes of it (block/blk-core.c). What has no number of its own in all
// kernels is EIO.
func BlockStatus(status int32) Errno {
	switch status {
	case 0:
		return 0
	case 1: // BLK_STS_NOTSUPP
		return -Errno(unix.EOPNOTSUPP)
	case 2: // BLK_STS_TIMEOUT
		return -Errno(unix.ETIMEDOUT)
	case 3: // BLK_STS_NOSPC
		return -Errno(unix.ENOSPC)
	case 4: // BLK_STS_TRANSPORT
		return -Errno(unix.ENOLINK)
	case 5: // BLK_STS_TARGET
		return -Errno(unix.EREMOTEIO)
	case 6: // BLK_STS_RESV_CONFLICT
		return -Errno(unix.EBADE)
	case 7: // BLK_STS_MEDIUM
		return -Errno(unix.ENODATA)
	case 8: // BLK_STS_PROTECTION
		return -Errno(unix.EILSEQ)
	case 9: // BLK_STS_RESOURCE
		return -Errno(unix.ENOMEM)
	case 12: // BLK_STS_AGAIN
		return -Errno(unix.EAGAIN)
	case 13: // BLK_STS_DEV_RESOURCE
		return -Errno(unix.EBUSY)
	}
	if status > 0 || status == math.MinInt32 {
		return -Errno(unix.EIO)
	}
	return Errno(status)
}
