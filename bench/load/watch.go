package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// A crowd watches one board: -mode watch with gRPC, -mode sse with server-sent events over HTTP/1.1.
//
// Streams are opened at a rate. When all have had a frame that is told, a line of JSON on stdout, and what is measured begins; after
// -seconds that is told too, and some seconds later, when late frames have come, what was found. The streams stay open until stdin
// ends, so that whoever asked can look at the servers meanwhile.
//
// A watcher whose stream ends comes back as docs/clients.md says: after what the server said, twice as long after each attempt that
// fails, to 30 s, and up to as long again by chance.
type crowd struct {
	*load
	sync.Mutex
	from, to time.Time
	ages     []uint32 // µs from a frame's asOf until it was here; not of a stream's first, which is as old as the board
	frames   map[int64]int
	own      int
	still    int
	ended    map[string]int
	attempts map[int]int // by second since the measured time began
	dials    map[int]int
	waiting  int // watchers without a frame since they came, or came back
	lost     time.Time
	back     time.Time
	most     int
	all      chan struct{}
}

type watcher struct {
	session *session
	stalled bool
	after   time.Duration // how long to wait before coming back
	failed  int           // attempts since the last frame
	fresh   bool          // its stream has had no frame yet
	waits   bool          // it is one of those waiting
	got     int           // frames of the measured time
}

const (
	lateFrames   = 5 * time.Second // are waited for at most, and half of the measured time
	openPatience = 120 * time.Second
	firstAfter   = time.Second // before the server has said anything
	longestWait  = 30 * time.Second
	firstWindow  = 1024 // of a stream, until its watcher reads
	readWindow   = 1 << 20
)

type watchReport struct {
	State     string         `json:"state"`
	Watchers  int            `json:"watchers"` // that read
	Stalled   int            `json:"stalled"`
	OpenedIn  float64        `json:"openedInSeconds"`
	Seconds   float64        `json:"seconds"`
	Frames    int            `json:"frames"` // different ones, by asOf
	Received  int            `json:"received"`
	Least     int            `json:"fewestOfOne"`
	P50       float64        `json:"ageP50Ms"`
	P99       float64        `json:"ageP99Ms"`
	P999      float64        `json:"ageP999Ms"`
	Max       float64        `json:"ageMaxMs"`
	Own       int            `json:"ownPlaces"`
	Still     int            `json:"heartbeats"`
	Ended     map[string]int `json:"ended"`
	Attempts  int            `json:"attempts"`
	PerSecond int            `json:"mostAttemptsInASecond"`
	Dials     int            `json:"dials"`
	DialsPer  int            `json:"mostDialsInASecond"`
	MostLost  int            `json:"mostLost"`
	LostAt    float64        `json:"lostAt"` // Unix seconds; 0: never
	BackAt    float64        `json:"backAt"` // when the last one had a frame again; 0: not all had
	LoadCPU   float64        `json:"loadCpuSeconds"`
}

func (l *load) watchAll(watchers int, opens, stalled float64) {
	c := &crowd{
		load: l, frames: map[int64]int{}, ended: map[string]int{}, attempts: map[int]int{}, dials: map[int]int{},
		ages: make([]uint32, 0, 1<<20), all: make(chan struct{}, 1),
	}
	if watchers == 0 {
		watchers = len(l.sessions)
	}
	those := make([]*watcher, watchers)
	for number := range those {
		// Evenly among the others.
		still := int(float64(number+1)*stalled) > int(float64(number)*stalled)
		those[number] = &watcher{session: l.sessions[number%len(l.sessions)], stalled: still, after: firstAfter, fresh: true, waits: !still}
		if !still {
			c.waiting++
		}
	}
	reading, began := c.waiting, time.Now()
	var shared *line
	for number, w := range those {
		time.Sleep(time.Until(began.Add(time.Duration(float64(number) / opens * float64(time.Second)))))
		if l.mode == "sse" {
			go c.stream(w)
			continue
		}
		if number%l.streams == 0 {
			shared = &line{crowd: c}
		}
		go shared.open(w)
	}
	select {
	case <-c.all:
	case <-time.After(openPatience):
		c.Lock()
		fmt.Fprintf(os.Stderr, "%d of %d watchers had no frame in time; ended: %v\n", c.waiting, reading, c.ended)
		os.Exit(1)
	}
	found := watchReport{State: "watching", Watchers: reading, Stalled: watchers - reading, OpenedIn: time.Since(began).Seconds()}
	c.Lock()
	c.from = time.Now()
	c.to = c.from.Add(time.Duration(l.seconds * float64(time.Second)))
	c.ended = map[string]int{}
	c.Unlock()
	cpu, out := used(), json.NewEncoder(os.Stdout)
	out.Encode(found)
	time.Sleep(time.Until(c.to))
	found.LoadCPU = (used() - cpu).Seconds()
	found.State = "measured"
	out.Encode(found)
	time.Sleep(min(lateFrames, time.Duration(l.seconds/2*float64(time.Second))))
	for c.someWait() && time.Since(c.to) < openPatience {
		time.Sleep(100 * time.Millisecond)
	}
	c.report(&found, those)
	out.Encode(found)
	io.Copy(io.Discard, os.Stdin)
}

func (c *crowd) someWait() bool {
	c.Lock()
	defer c.Unlock()
	return c.waiting > 0
}

func (c *crowd) report(found *watchReport, those []*watcher) {
	c.Lock()
	defer c.Unlock()
	slices.Sort(c.ages)
	at := func(share float64) float64 {
		if len(c.ages) == 0 {
			return 0
		}
		return float64(c.ages[min(len(c.ages)-1, int(share*float64(len(c.ages))))]) / 1000
	}
	found.State, found.Seconds, found.Frames = "done", c.seconds, len(c.frames)
	for _, received := range c.frames {
		found.Received += received
	}
	found.Least = len(c.frames)
	for _, w := range those {
		if !w.stalled {
			found.Least = min(found.Least, w.got)
		}
	}
	found.P50, found.P99, found.P999, found.Max = at(0.5), at(0.99), at(0.999), at(1)
	found.Own, found.Still, found.Ended, found.MostLost = c.own, c.still, c.ended, c.most
	found.Attempts, found.PerSecond = sumAndMost(c.attempts)
	found.Dials, found.DialsPer = sumAndMost(c.dials)
	if !c.lost.IsZero() {
		found.LostAt = unix(c.lost)
		if c.waiting == 0 {
			found.BackAt = unix(c.back)
		}
	}
}

func unix(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

func sumAndMost(by map[int]int) (sum, most int) {
	for _, count := range by {
		sum += count
		most = max(most, count)
	}
	return sum, most
}

// begins counts an attempt.
func (c *crowd) begins(by map[int]int) {
	c.Lock()
	defer c.Unlock()
	if !c.from.IsZero() {
		by[int(time.Since(c.from).Seconds())]++
	}
}

// frame takes the time that a frame names.
func (c *crowd) frame(w *watcher, asOf time.Time) {
	now := time.Now()
	c.Lock()
	defer c.Unlock()
	if !c.from.IsZero() && !asOf.Before(c.from) && asOf.Before(c.to) {
		c.frames[asOf.UnixNano()]++
		w.got++
		if !w.fresh {
			c.ages = append(c.ages, uint32(min(now.Sub(asOf).Microseconds(), 1<<32-1)))
		}
	}
	w.fresh, w.failed = false, 0
	if w.waits {
		w.waits = false
		if c.waiting--; c.waiting == 0 {
			c.back = now
			select {
			case c.all <- struct{}{}:
			default:
			}
		}
	}
}

// loses notes that a watcher's stream has ended, and gives how long it waits before it comes back.
func (c *crowd) loses(w *watcher, why string) time.Duration {
	c.Lock()
	defer c.Unlock()
	c.ended[why]++
	if !w.waits && !w.stalled {
		w.waits = true
		if c.waiting++; !c.from.IsZero() {
			c.most = max(c.most, c.waiting)
			if c.lost.IsZero() {
				c.lost = time.Now()
			}
		}
	}
	w.fresh = true
	w.failed++
	if w.failed == 1 { // as docs/clients.md says
		return w.after
	}
	wait := min(time.Duration(float64(w.after)*math.Pow(1.5, float64(w.failed-2))), longestWait)
	return wait/2 + time.Duration(rand.Int64N(int64(wait)/2+1))
}

// A line is one HTTP/2 connection that several watchers share, dialled when it is needed.
type line struct {
	crowd *crowd
	sync.Mutex
	link    *link
	streams map[uint32]*watching
}

// watching is one stream: what has come of a message that is not whole yet, and how much window it is owed.
type watching struct {
	*watcher
	data []byte
	owed int
}

func (n *line) open(w *watcher) {
	n.crowd.begins(n.crowd.attempts)
	if err := n.send(w); err != nil {
		n.loses(w, "not connected")
	}
}

func (n *line) loses(w *watcher, why string) {
	time.AfterFunc(n.crowd.loses(w, why), func() { n.open(w) })
}

func (n *line) send(w *watcher) error {
	n.Lock()
	defer n.Unlock()
	if n.link == nil {
		n.crowd.begins(n.crowd.dials)
		k, err := dial(n.crowd.address, firstWindow)
		if err != nil {
			return err
		}
		n.link, n.streams = k, map[uint32]*watching{}
		go n.read(k, n.streams)
	}
	k := n.link
	k.Lock()
	defer k.Unlock()
	id := k.next
	k.next += 2
	n.streams[id] = &watching{watcher: w}
	k.headers(id, n.crowd.address, watchPath, w.session.Token, "", "")
	k.framer.WriteData(id, true, n.crowd.watchRequest())
	if !w.stalled {
		k.framer.WriteWindowUpdate(id, readWindow)
	}
	k.poke()
	return nil
}

// read passes on what comes over one connection, until it breaks: then all of its watchers have lost their streams.
func (n *line) read(k *link, streams map[uint32]*watching) {
	for {
		frame, err := k.framer.ReadFrame()
		if err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			n.data(k, streams, frame)
		case *http2.MetaHeadersFrame:
			if frame.StreamEnded() {
				status := "no status"
				for _, field := range frame.Fields {
					if field.Name == "grpc-status" {
						status = "status " + field.Value
					}
				}
				n.ends(streams, frame.StreamID, status)
			}
		case *http2.RSTStreamFrame:
			n.ends(streams, frame.StreamID, frame.ErrCode.String())
		case *http2.GoAwayFrame: // the connection ends when its streams have
			n.Lock()
			if n.link == k {
				n.link = nil
			}
			n.Unlock()
		default:
			k.answer(frame)
		}
	}
	k.close()
	n.Lock()
	if n.link == k {
		n.link = nil
	}
	left := make([]*watcher, 0, len(streams))
	for id, one := range streams {
		left = append(left, one.watcher)
		delete(streams, id)
	}
	n.Unlock()
	for _, w := range left {
		n.loses(w, "broken")
	}
}

func (n *line) ends(streams map[uint32]*watching, id uint32, why string) {
	n.Lock()
	one := streams[id]
	delete(streams, id)
	n.Unlock()
	if one != nil {
		n.loses(one.watcher, why)
	}
}

func (n *line) data(k *link, streams map[uint32]*watching, frame *http2.DataFrame) {
	n.Lock()
	one := streams[frame.StreamID]
	n.Unlock()
	size := len(frame.Data())
	if k.owed += size; k.owed > readWindow {
		k.grant(0, k.owed)
		k.owed = 0
	}
	if one == nil || one.stalled {
		return
	}
	if one.owed += size; one.owed > readWindow/2 {
		k.grant(frame.StreamID, one.owed)
		one.owed = 0
	}
	whole := frame.Data()
	if len(one.data) > 0 {
		one.data = append(one.data, whole...)
		whole = one.data
	}
	for len(whole) >= 5 && len(whole)-5 >= int(binary.BigEndian.Uint32(whole[1:5])) {
		end := 5 + int(binary.BigEndian.Uint32(whole[1:5]))
		n.crowd.message(one.watcher, whole[5:end])
		whole = whole[end:]
	}
	one.data = append(one.data[:0], whole...)
	if frame.StreamEnded() {
		n.ends(streams, frame.StreamID, "no trailers")
	}
}

// What leaderboard.proto says.
const (
	watchPath = "/finalbell.v1.LeaderboardService/WatchLeaderboard"

	watchExam, watchTop                               = 1, 2
	newBoard, newOwn, newReconnect, newReconnectAfter = 1, 2, 3, 4
	frameAsOf                                         = 3
	reconnectAfter                                    = 1
)

// watchRequest is a WatchLeaderboardRequest behind gRPC's prefix.
func (c *crowd) watchRequest() []byte {
	message := append(make([]byte, 5, 80), watchExam<<3|2, byte(len(c.exam)))
	message = append(message, c.exam...)
	message = binary.AppendUvarint(append(message, watchTop<<3), uint64(c.top))
	binary.BigEndian.PutUint32(message[1:5], uint32(len(message)-5))
	return message
}

// message takes a WatchLeaderboardResponse; one with nothing set means that the stream is alive.
func (c *crowd) message(w *watcher, message []byte) {
	if len(message) == 0 {
		c.Lock()
		c.still++
		c.Unlock()
	}
	for what, value := range fields(message) {
		switch what {
		case newBoard:
			for inner, asOf := range fields(value.held) {
				if inner == frameAsOf {
					c.frame(w, timestamp(asOf.held))
				}
			}
		case newOwn:
			c.ownPlace()
		case newReconnect:
			for inner, after := range fields(value.held) {
				if inner == reconnectAfter {
					c.after(w, after.number)
				}
			}
		case newReconnectAfter:
			c.after(w, value.number)
		}
	}
}

func (c *crowd) ownPlace() {
	c.Lock()
	defer c.Unlock()
	if !c.from.IsZero() && time.Now().Before(c.to) {
		c.own++
	}
}

func (c *crowd) after(w *watcher, ms uint64) {
	c.Lock()
	defer c.Unlock()
	w.after = time.Duration(ms) * time.Millisecond
}

func timestamp(message []byte) time.Time {
	var parts [3]int64
	for part, value := range fields(message) {
		if part <= 2 {
			parts[part] = int64(value.number)
		}
	}
	return time.Unix(parts[1], parts[2])
}

// stream watches by server-sent events, over a connection of its own, again and again.
func (c *crowd) stream(w *watcher) {
	for {
		c.begins(c.attempts)
		c.begins(c.dials)
		err := c.events(w)
		if err == nil {
			err = errors.New("ended")
		}
		time.Sleep(c.loses(w, err.Error()))
	}
}

var errNotConnected, errBroken = errors.New("not connected"), errors.New("broken")

func (c *crowd) events(w *watcher) error {
	dialer := net.Dialer{Timeout: time.Second}
	if w.stalled { // so that what is sent has nowhere to go soon
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}
	}
	wire, err := dialer.Dial("tcp", c.address)
	if err != nil {
		return errNotConnected
	}
	defer wire.Close()
	if _, err = fmt.Fprintf(wire, "GET /api/v1/exams/%s/leaderboard:watch?top=%d HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n",
		c.exam, c.top, c.address, w.session.Token); err != nil {
		return errBroken
	}
	if w.stalled {
		select {}
	}
	raw := bufio.NewReaderSize(wire, 2048)
	status, chunked := 0, false
	for {
		line, err := raw.ReadSlice('\n')
		if err != nil {
			return errBroken
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if status == 0 && len(line) >= 12 {
			status, _ = strconv.Atoi(string(line[9:12]))
		}
		chunked = chunked || bytes.EqualFold(line, []byte("transfer-encoding: chunked"))
	}
	if status != 200 || !chunked {
		return fmt.Errorf("HTTP %d", status)
	}
	return c.lines(w, bufio.NewReaderSize(httputil.NewChunkedReader(raw), 2048))
}

// lines takes events line by line, until the stream ends.
func (c *crowd) lines(w *watcher, body *bufio.Reader) error {
	var long []byte
	event := ""
	for {
		line, err := body.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long, line...)
			continue
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errBroken
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 1:
			event = ""
		case len(name) == 0:
			c.Lock()
			c.still++
			c.Unlock()
		case string(name) == "retry":
			ms, _ := strconv.ParseUint(string(value), 10, 32)
			c.after(w, ms)
		case string(name) == "event":
			event = string(value)
		case string(name) == "data" && event == "board":
			_, rest, _ := bytes.Cut(value, []byte(`"asOf":"`))
			text, _, _ := bytes.Cut(rest, []byte(`"`))
			asOf, err := time.Parse(time.RFC3339Nano, string(text))
			if err != nil {
				return errors.New("a frame without asOf")
			}
			c.frame(w, asOf)
		case string(name) == "data" && event == "me":
			c.ownPlace()
		case string(name) == "data" && event == "reconnect":
			_, rest, _ := bytes.Cut(value, []byte(`"afterMs":`))
			ms, _ := strconv.ParseUint(string(bytes.TrimRight(rest, " }")), 10, 32)
			c.after(w, ms)
		}
		long = long[:0]
	}
}
