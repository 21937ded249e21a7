package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A student who is told 202 asks for the result after what Retry-After says, as the documentation tells apps to do.
const (
	askAgain = time.Second
	askers   = 64
	longest  = 5 * time.Minute
)

// Submits are what came of handing in every session once.
type submits struct {
	sync.Mutex
	answered []uint32 // µs from when it was due to the answer
	visible  []uint32 // µs from when it was due until the student has seen the score
	status   map[int]int
	refused  map[string]int
	broken   int
	asked    int
}

type submitReport struct {
	Offered  float64        `json:"offeredPerSecond"`
	Sessions int            `json:"sessions"`
	Answered int            `json:"answered"`
	Seconds  float64        `json:"seconds"`
	Rate     float64        `json:"answeredPerSecond"`
	P50      float64        `json:"p50Ms"`
	P99      float64        `json:"p99Ms"`
	Max      float64        `json:"maxMs"`
	Status   map[int]int    `json:"status"`
	Visible  int            `json:"visible"`
	Visible5 float64        `json:"visibleP50Ms"`
	Visible9 float64        `json:"visibleP99Ms"`
	VisibleM float64        `json:"visibleMaxMs"`
	Asked    int            `json:"asked"`
	Refused  map[string]int `json:"refused"`
	Broken   int            `json:"brokenConnections"`
	LoadCPU  float64        `json:"loadCpuSeconds"`
}

// submitAll hands every session in once, at the rate or as fast as the connections go, and waits until each has its score.
func (l *load) submitAll() {
	s := &submits{status: map[int]int{}, refused: map[string]int{}}
	l.began = time.Now()
	var next atomic.Int64
	var all, watching sync.WaitGroup
	asking := make(chan struct{}, askers)
	pool := make(chan *wire, askers)
	for range l.connections {
		all.Add(1)
		go func() {
			defer all.Done()
			line := &wire{address: l.address}
			defer line.close()
			for {
				number := next.Add(1) - 1
				if number >= int64(len(l.sessions)) {
					return
				}
				due := time.Now()
				if l.rate > 0 {
					due = l.began.Add(time.Duration(float64(number) / l.rate * float64(time.Second)))
					time.Sleep(time.Until(due))
				}
				one := l.sessions[number]
				if s.submit(line, one, fmt.Sprintf("%s-%012x", l.run, number), due) == 202 {
					wait := max(askAgain, time.Duration(line.retry)*time.Second)
					watching.Add(1)
					go func() {
						defer watching.Done()
						s.watch(one, due, wait, asking, pool, l.address)
					}()
				}
			}
		}()
	}
	all.Wait()
	took := time.Since(l.began)
	watching.Wait()
	json.NewEncoder(os.Stdout).Encode(s.report(l.options, len(l.sessions), took, used()))
}

// submit sends until there is a final answer, with one key; it gives the answer's status.
func (s *submits) submit(line *wire, one *session, key string, due time.Time) int {
	for tries := 0; time.Since(due) < longest; tries++ {
		if tries > 0 {
			time.Sleep(backOff(tries))
		}
		status, body, err := line.call("POST", "/submit", one, key, "{}")
		s.Lock()
		if err != nil {
			s.broken++
			s.Unlock()
			continue
		}
		if status == 200 || status == 202 {
			now := uint32(time.Since(due).Microseconds())
			s.answered = append(s.answered, now)
			s.status[status]++
			if status == 200 {
				s.visible = append(s.visible, now)
			}
			s.Unlock()
			return status
		}
		s.refused[strconv.Itoa(status)+" "+reason(body)]++
		s.Unlock()
		if status != 503 && status != 429 {
			return status
		}
	}
	return 0
}

// watch asks for the result until it is there.
func (s *submits) watch(one *session, due time.Time, wait time.Duration, asking chan struct{}, pool chan *wire, address string) {
	for time.Since(due) < longest {
		time.Sleep(wait)
		asking <- struct{}{}
		var line *wire
		select {
		case line = <-pool:
		default:
			line = &wire{address: address}
		}
		status, body, err := line.call("GET", "/result", one, "", "")
		wait = max(askAgain, time.Duration(line.retry)*time.Second)
		pool <- line
		<-asking
		s.Lock()
		s.asked++
		if err == nil && status == 200 && !bytes.Contains(body, []byte(`"status":"SCORING"`)) {
			s.visible = append(s.visible, uint32(time.Since(due).Microseconds()))
			s.Unlock()
			return
		}
		if err != nil {
			s.broken++
		} else if status != 202 {
			s.refused["result: "+strconv.Itoa(status)+" "+reason(body)]++
		}
		s.Unlock()
	}
}

func (s *submits) report(o options, sessions int, took time.Duration, cpu time.Duration) submitReport {
	slices.Sort(s.answered)
	slices.Sort(s.visible)
	at := func(of []uint32, share float64) float64 {
		if len(of) == 0 {
			return 0
		}
		return float64(of[min(len(of)-1, int(share*float64(len(of))))]) / 1000
	}
	return submitReport{
		Offered: o.rate, Sessions: sessions, Answered: len(s.answered), Seconds: took.Seconds(),
		Rate: float64(len(s.answered)) / took.Seconds(),
		P50:  at(s.answered, 0.5), P99: at(s.answered, 0.99), Max: at(s.answered, 1), Status: s.status,
		Visible: len(s.visible), Visible5: at(s.visible, 0.5), Visible9: at(s.visible, 0.99), VisibleM: at(s.visible, 1),
		Asked: s.asked, Refused: s.refused, Broken: s.broken, LoadCPU: cpu.Seconds(),
	}
}

// A wire is one HTTP/1.1 connection, dialled when it is needed.
type wire struct {
	address string
	net     net.Conn
	reader  *bufio.Reader
	buffer  []byte
	body    []byte
	retry   int // seconds, of the last reply
}

func (w *wire) call(method, path string, one *session, key, body string) (int, []byte, error) {
	if w.net == nil {
		dialled, err := net.DialTimeout("tcp", w.address, time.Second)
		if err != nil {
			return 0, nil, err
		}
		w.net, w.reader = dialled, bufio.NewReaderSize(dialled, 8192)
	}
	to := fmt.Appendf(w.buffer[:0], "%s /api/v1/sessions/%s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n",
		method, one.ID, path, w.address, one.Token)
	if key != "" {
		to = fmt.Appendf(to, "Idempotency-Key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", key, len(body))
	}
	w.buffer = append(append(to, "\r\n"...), body...)
	w.net.SetDeadline(time.Now().Add(patience))
	_, err := w.net.Write(w.buffer)
	status := 0
	if err == nil {
		status, w.retry, w.body, err = readReply(w.reader, w.body[:0])
	}
	if err != nil {
		w.close()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	return status, w.body, err
}

func (w *wire) close() {
	if w.net != nil {
		w.net.Close()
		w.net = nil
	}
}
