package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

// A student reads something at -path: -mode read. A reply counts when it is 200 and has a body, or 304 where -tag names what the
// student has already. -mode files is what it is compared with: Go's own file server, over the folder -path.

func (l *load) readGet(to []byte, one *save) []byte {
	to = fmt.Appendf(to, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", l.path, l.address, one.session.Token)
	if l.tag != "" {
		to = fmt.Appendf(to, "If-None-Match: %s\r\n", l.tag)
	}
	return append(to, "\r\n"...)
}

// found tells whether a reply is what was asked for.
func (l *load) found(status int, body []byte) bool {
	if l.tag != "" {
		return status == 304 && len(body) == 0
	}
	return status == 200 && len(body) > 0
}

// serveFiles serves a folder until it is killed.
func serveFiles(address, folder string) {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		fmt.Println("ready")
		err = http.Serve(listener, http.FileServer(http.Dir(folder)))
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
