package main

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// Clients report what they noticed: -mode signals, -report signals in each report. A report counts when it is answered 202; how many of
// its signals were taken is in the answer, and added up.

var (
	noticed  atomic.Uint32 // numbers of signals, each once
	accepted atomic.Int64
	kinds    = []string{`"focusLost":{}`, `"focusRegained":{"awayMs":1500}`, `"copy":{"length":40}`, `"paste":{"length":40}`}
)

func (l *load) signalsPost(to []byte, one *save) []byte {
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	body := fmt.Appendf(nil, `{"deviceId":"bench","clientNow":"%s","signals":[`, now)
	for number := range l.report {
		if number > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"clientTs":"%s","sequence":%d,%s}`, now, firstSequence+noticed.Add(1), kinds[number%len(kinds)])
	}
	body = append(body, "]}"...)
	return fmt.Appendf(to, "POST /api/v1/sessions/%s/signals HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		one.session.ID, l.address, one.session.Token, len(body), body)
}

// taken tells whether a reply is a report's, and adds up what it took.
func taken(status int, body []byte) bool {
	if status != 202 {
		return false
	}
	_, rest, found := bytes.Cut(body, []byte(`"accepted":`))
	if !found {
		return true // none of them: JSON leaves out what is zero
	}
	digits := bytes.TrimLeft(rest, " ")
	end := bytes.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	count, err := strconv.ParseInt(string(digits[:max(end, 0)]), 10, 64)
	accepted.Add(count)
	return err == nil
}
