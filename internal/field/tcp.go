package field

import "strconv"

// TCPState is the state of a TCP socket (include/net/tcp_states.h); 0 is none.
type TCPState uint16

func (s TCPState) append(b []byte) []byte {
	names := [...]string{
		"", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSE", "CLOSE-WAIT", "LAST-ACK", "LISTEN",
		"CLOSING", "SYN-RECV", // of a request that has no socket of its own yet
	}
	if int(s) < len(names) {
		return append(b, names[s]...)
	}
	return strconv.AppendUint(b, uint64(s), 10)
}

// AppendText implements Value: the name as ss has it (but CLOSE, where it says UNCONN), the number
// of one without a name, - for none.
func (s TCPState) AppendText(b []byte) []byte {
	if s == 0 {
		return append(b, '-')
	}
	return s.append(b)
}

// AppendJSON implements Value: a string with the same, empty for none.
func (s TCPState) AppendJSON(b []byte) []byte {
	return append(s.append(append(b, '"')), '"')
}

// TCPFlags are the flags of a TCP header (RFC 9293).
type TCPFlags uint16

var tcpFlags = []flagName{
	{0x2, "SYN"},
	{0x1, "FIN"},
	{0x4, "RST"},
	{0x8, "PSH"},
	{0x10, "ACK"},
	{0x20, "URG"},
	{0x40, "ECE"},
	{0x80, "CWR"},
}

// AppendText implements Value: the names with | between, what has no name in hexadecimal, and -
// where there are none.
func (f TCPFlags) AppendText(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	return appendFlags(b, uint64(f), tcpFlags, "|", "", true)
}

// AppendJSON implements Value: an array of the same as strings.
func (f TCPFlags) AppendJSON(b []byte) []byte {
	return append(appendFlags(append(b, '['), uint64(f), tcpFlags, ",", `"`, true), ']')
}
