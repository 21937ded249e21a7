package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

const patience = 15 * time.Second

// A client does not wait for a report of signals, and throws away what was not taken at once.
const signalPatience = time.Second

// rest sends saves over one HTTP/1.1 connection, one after the other.
func (l *load) rest() {
	var wire net.Conn
	var reader *bufio.Reader
	buffer := make([]byte, 0, 2048)
	body := make([]byte, 0, 4096)
	for one := l.take(); one != nil; one = l.take() {
		for {
			if wire == nil {
				dialled, err := net.DialTimeout("tcp", l.address, time.Second)
				if err != nil {
					l.tally.breaks()
					if l.over() {
						return
					}
					time.Sleep(50 * time.Millisecond)
					continue
				}
				wire, reader = dialled, bufio.NewReaderSize(dialled, 4096)
			}
			switch l.mode {
			case "ranks":
				buffer = l.ranksGet(buffer[:0], one)
			case "read":
				buffer = l.readGet(buffer[:0], one)
			case "hook":
				buffer = l.hookPost(buffer[:0], one)
			case "signals":
				buffer = l.signalsPost(buffer[:0], one)
			default:
				buffer = restRequest(buffer[:0], one, l.options)
			}
			wait := patience
			if l.mode == "signals" {
				wait = signalPatience
			}
			wire.SetDeadline(time.Now().Add(wait))
			_, err := wire.Write(buffer)
			status := 0
			if err == nil {
				status, _, body, err = readReply(reader, body[:0])
			}
			if err != nil { // nobody knows whether it is saved: the same key again
				wire.Close()
				wire = nil
				l.tally.breaks()
			}
			if err == nil && l.answered(one, status, body) || err != nil && l.mode == "signals" {
				break
			}
			if l.over() {
				return
			}
			one.tries++
			time.Sleep(backOff(one.tries))
		}
	}
	if wire != nil {
		wire.Close()
	}
}

// over tells that no more time is left for repeats either.
func (l *load) over() bool { return time.Now().After(l.ends.Add(patience)) }

// backOff doubles from 20 ms to 1.3 s.
func backOff(tries int) time.Duration { return 20 * time.Millisecond << min(tries, 6) }

// answered counts a reply, and tells whether it is final.
func (l *load) answered(one *save, status int, body []byte) bool {
	if status == 503 || status == 429 {
		l.tally.refuse(one, strconv.Itoa(status)+" "+reason(body))
		return l.mode == "signals" // clients throw away what is not taken
	}
	if l.mode == "read" || l.mode == "hook" || l.mode == "signals" {
		if l.mode == "hook" && status == 200 || l.mode == "read" && l.found(status, body) || l.mode == "signals" && taken(status, body) {
			l.tally.saved(one)
		} else {
			l.tally.refuse(one, strconv.Itoa(status)+" "+reason(body))
		}
		return true
	}
	if status != 200 || !(l.mode == "ranks" && ranked(body) || bytes.Contains(body, []byte(`"saved":true`))) {
		l.tally.refuse(one, strconv.Itoa(status)+" "+reason(body))
		return true
	}
	l.tally.saved(one)
	if l.acks.on {
		_, rest, _ := bytes.Cut(body, []byte(`"version":`))
		digits, _, _ := bytes.Cut(rest, []byte(","))
		version, _ := strconv.ParseUint(string(bytes.Trim(digits, `"} `)), 10, 64)
		l.acks.saved(one, version)
	}
	return true
}

func reason(body []byte) string {
	_, rest, found := bytes.Cut(body, []byte(`"reason":`))
	if !found {
		return string(body[:min(len(body), 80)])
	}
	name, _, _ := bytes.Cut(bytes.TrimLeft(rest, ` "`), []byte(`"`))
	return string(name)
}

func restRequest(to []byte, one *save, o options) []byte {
	var text [160]byte
	body := fmt.Appendf(text[:0], `{"questionId":"%s","choice":"%s","clientSeq":%d,"clientTs":"%s"}`,
		one.question.ID, one.choice, one.seq, one.due.UTC().Format("2006-01-02T15:04:05.000Z"))
	to = append(to, "PUT /api/v1/sessions/"...)
	to = append(to, one.session.ID...)
	to = append(to, "/answers HTTP/1.1\r\nHost: "...)
	to = append(to, o.address...)
	to = append(to, "\r\nAuthorization: Bearer "...)
	to = append(to, one.session.Token...)
	to = append(to, "\r\nIdempotency-Key: "...)
	to = append(to, one.key...)
	to = append(to, "\r\nContent-Type: "...)
	to = append(to, o.content...)
	to = append(to, "\r\nContent-Length: "...)
	to = strconv.AppendInt(to, int64(len(body)), 10)
	to = append(to, "\r\n\r\n"...)
	return append(to, body...)
}

// readReply reads one HTTP/1.1 reply that has a length (every reply of the gateway's has one, or is chunked): its status,
// Retry-After in seconds, and body.
func readReply(reader *bufio.Reader, body []byte) (int, int, []byte, error) {
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return 0, 0, nil, err
	}
	if len(line) < 12 {
		return 0, 0, nil, errors.New("no status line")
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, 0, nil, err
	}
	length, retry, chunked := 0, 0, false
	for {
		if line, err = reader.ReadSlice('\n'); err != nil {
			return 0, 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if len(name) == 14 && bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, 0, nil, err
			}
		} else if len(name) == 11 && bytes.EqualFold(name, []byte("retry-after")) {
			retry, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		} else if len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")) {
			chunked = true
		}
	}
	for {
		if chunked {
			if line, err = reader.ReadSlice('\n'); err != nil {
				return 0, 0, nil, err
			}
			size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
			if err != nil {
				return 0, 0, nil, err
			}
			length = int(size)
		}
		start := len(body)
		body = append(body, make([]byte, length)...)
		if _, err = io.ReadFull(reader, body[start:]); err != nil {
			return 0, 0, nil, err
		}
		if !chunked {
			return status, retry, body, nil
		}
		if _, err = reader.Discard(2); err != nil {
			return 0, 0, nil, err
		}
		if length == 0 {
			return status, retry, body, nil
		}
	}
}
