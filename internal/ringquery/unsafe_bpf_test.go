// SPDX-License-Identifier: Apache-2.0

package ringquery

import "unsafe"

// pointer is an address as struct perf_event_attr holds it. The caller keeps p alive.
func pointer(p *byte) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }
