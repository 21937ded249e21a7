package main

import "fmt"

// A gateway tells of payments: -mode hook. Each line of -sessions is a message that is signed; it is sent once when it is due, and
// again where it was not taken, as gateways do.

func (l *load) hookPost(to []byte, one *save) []byte {
	said := one.session
	return fmt.Appendf(to, "POST %s HTTP/1.1\r\nHost: %s\r\nSandbox-Signature: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		l.path, l.address, said.Signature, len(said.Body), said.Body)
}
