package ringbuf

import (
	"fmt"
	"math/bits"
	"os"
)

// maxSize is the largest ring: max_entries is a u32 and must be a power of two.
const maxSize = 1 << 31

// ValidSize returns nil where a ring of n bytes can exist on this machine, and
// else an error that says what is wrong with n: the kernel wants a power of two
// that is a multiple of the page size (ringbuf_map_alloc), 2 GiB at the most.
// [NearestSizes] has the values that would have been right.
func ValidSize(n uint64) error {
	page := uint64(os.Getpagesize())
	switch {
	case n < page:
		return fmt.Errorf("ring size %d: smaller than a page (%d bytes)", n, page)
	case n > maxSize:
		return fmt.Errorf("ring size %d: larger than 2 GiB", n)
	case n&(n-1) != 0:
		// Page sizes are powers of two, so from a page on, every power of two
		// is a multiple of it.
		return fmt.Errorf("ring size %d: not a power of two", n)
	}
	return nil
}

// NearestSizes returns the largest valid ring size up to n and the smallest one
// from n on, in bytes: both n where it is valid itself, and 0 for the one that
// does not exist, below a page or above 2 GiB.
func NearestSizes(n uint64) (below, above uint64) {
	page := uint64(os.Getpagesize())
	switch {
	case n < page:
		return 0, page
	case n > maxSize:
		return maxSize, 0
	}
	below = 1 << (bits.Len64(n) - 1)
	if below == n {
		return n, n
	}
	return below, below << 1
}
