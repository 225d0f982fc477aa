// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestListenAddress(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:9435": "127.0.0.1:9435",
		"9435":           "127.0.0.1:9435",
		":9435":          "127.0.0.1:9435",
		":0":             "127.0.0.1:0",
		"0":              "127.0.0.1:0",
		"0.0.0.0:65535":  "0.0.0.0:65535",
		"[::]:9435":      "[::]:9435",
		"localhost:80":   "localhost:80",
		"":               "",
		":":              "",
		"127.0.0.1":      "",
		"65536":          "",
		":65536":         "",
		"-1":             "",
		":http":          "",
		"::1:9435":       "",
		"[::1]":          "",
		"http://a:1":     "",
		"a:1:2":          "",
	} {
		got, err := listenAddress(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}
