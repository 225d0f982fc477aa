// SPDX-License-Identifier: Apache-2.0

// Sockets is the workload of the recordings of the network tracers.
package main

import "github.com/rbtrace/rbtrace/internal/bpftest/nettest"

func main() { nettest.Main() }
