package main

import (
	"bytes"
	"encoding/binary"
	"iter"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpc sends saves over one HTTP/2 connection, -streams at once. Frames are made by hand: grpc-go's client costs three times
// as much, and what it costs would be taken from the server that shares the machine.
func (l *load) grpc() {
	var pending []*save // those whose connection broke
	for {
		broken, done := l.connection(pending)
		pending = broken
		if done && len(pending) == 0 || l.over() {
			return
		}
		if len(pending) > 0 {
			l.tally.breaks()
		}
		time.Sleep(50 * time.Millisecond)
	}
}

type call struct {
	one    *save
	data   []byte
	status string
}

type link struct {
	sync.Mutex
	wire   net.Conn
	framer *http2.Framer
	out    bytes.Buffer // what waits to be written
	header *hpack.Encoder
	block  bytes.Buffer
	next   uint32
	calls  map[uint32]*call
	wake   chan struct{}
	owed   int // received bytes for which no window was given back yet
	dead   bool
}

// connection runs one connection until it breaks or the time is over; gives the saves that it left unanswered, and whether
// the time is over.
func (l *load) connection(pending []*save) ([]*save, bool) {
	k, err := dial(l.address, 1<<20)
	if err != nil {
		l.tally.breaks()
		return pending, time.Now().After(l.ends)
	}
	defer k.wire.Close()

	free := make(chan struct{}, l.streams)
	for range l.streams {
		free <- struct{}{}
	}
	failed := make(chan struct{})
	again := make(chan *save, l.streams+len(pending))
	for _, one := range pending {
		again <- one
	}
	go func() {
		k.read(l, free, again)
		close(failed)
	}()
	over := false
	for !over {
		select {
		case <-failed:
			return k.left(again), false
		case <-free:
		}
		var one *save
		select {
		case one = <-again:
		default:
			one = l.take()
		}
		if one == nil {
			over = true
			free <- struct{}{}
			break
		}
		k.send(l, one)
	}
	for range l.streams { // what is still on its way
		select {
		case <-failed:
			return k.left(again), true
		case <-free:
		case <-time.After(patience):
			return nil, true
		}
		for len(again) > 0 && !l.over() {
			k.send(l, <-again)
			select {
			case <-failed:
				return k.left(again), true
			case <-free:
			}
		}
	}
	return nil, true
}

// dial makes a connection whose streams begin with so much window.
func dial(address string, window uint32) (*link, error) {
	wire, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return nil, err
	}
	k := &link{wire: wire, next: 1, calls: map[uint32]*call{}, wake: make(chan struct{}, 1)}
	k.framer = http2.NewFramer(&k.out, wire)
	k.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	k.header = hpack.NewEncoder(&k.block)
	k.out.WriteString(http2.ClientPreface)
	k.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	k.framer.WriteWindowUpdate(0, 1<<24)
	go k.flush()
	k.poke()
	return k, nil
}

func (k *link) close() {
	k.wire.Close()
	k.Lock()
	defer k.Unlock()
	k.dead = true
	k.poke()
}

func (k *link) left(again chan *save) []*save {
	k.Lock()
	defer k.Unlock()
	k.dead = true
	var saves []*save
	for _, one := range k.calls {
		one.one.tries++
		saves = append(saves, one.one)
	}
	for len(again) > 0 {
		saves = append(saves, <-again)
	}
	return saves
}

func (k *link) send(l *load, one *save) {
	k.Lock()
	defer k.Unlock()
	id := k.next
	k.next += 2
	k.calls[id] = &call{one: one}
	path, message := savePath, []byte(nil)
	switch l.mode {
	case "empty":
		path, message = emptyPath, make([]byte, 5)
	case "ranks-grpc":
		path, message = ranksPath, l.ranksRequest()
	default:
		message = grpcRequest(one) // some hundred bytes a call at most: the send windows (64 KB) are never used up
	}
	k.headers(id, l.address, path, one.session.Token, one.key, timeout)
	k.framer.WriteData(id, true, message)
	k.poke()
}

const timeout = "10S"

// headers begins a call; the link is locked. An empty key or deadline is left out.
func (k *link) headers(id uint32, address, path, token, key, deadline string) {
	k.block.Reset()
	for _, field := range [...]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: path}, {Name: ":authority", Value: address},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
		{Name: "grpc-timeout", Value: deadline},
		{Name: "authorization", Value: "Bearer " + token, Sensitive: true},
		{Name: "idempotency-key", Value: key, Sensitive: true},
	} {
		if field.Value != "" {
			k.header.WriteField(field)
		}
	}
	k.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: k.block.Bytes(), EndHeaders: true})
}

// answer does what the protocol asks for.
func (k *link) answer(frame http2.Frame) {
	k.Lock()
	defer k.Unlock()
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			k.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			k.framer.WritePing(true, frame.Data)
		}
	}
	k.poke()
}

// grant gives window back to a stream, or (0) to the connection.
func (k *link) grant(id uint32, size int) {
	k.Lock()
	defer k.Unlock()
	k.framer.WriteWindowUpdate(id, uint32(size))
	k.poke()
}

func (k *link) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// flush writes what has gathered, so that many calls share a system call.
func (k *link) flush() {
	var spare []byte
	for range k.wake {
		k.Lock()
		spare = append(spare[:0], k.out.Bytes()...)
		k.out.Reset()
		dead := k.dead
		k.Unlock()
		if dead {
			return
		}
		if _, err := k.wire.Write(spare); err != nil {
			return
		}
	}
}

func (k *link) read(l *load, free chan struct{}, again chan *save) {
	defer k.wire.Close()
	for {
		frame, err := k.framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			return
		case *http2.RSTStreamFrame:
			k.end(l, frame.StreamID, "RST_STREAM", free, again)
		case *http2.DataFrame:
			k.Lock()
			if one := k.calls[frame.StreamID]; one != nil {
				one.data = append(one.data, frame.Data()...)
			}
			if k.owed += len(frame.Data()); k.owed > 1<<20 {
				k.framer.WriteWindowUpdate(0, uint32(k.owed))
				k.owed = 0
			}
			k.Unlock()
			if frame.StreamEnded() {
				k.end(l, frame.StreamID, "no trailers", free, again)
			}
		case *http2.MetaHeadersFrame:
			status := ""
			for _, field := range frame.Fields {
				if field.Name == "grpc-status" {
					status = field.Value
				}
			}
			if frame.StreamEnded() {
				k.end(l, frame.StreamID, status, free, again)
			}
		default:
			k.answer(frame)
		}
	}
}

// end counts a call's outcome; UNAVAILABLE is sent again with its key, after a while.
func (k *link) end(l *load, id uint32, status string, free chan struct{}, again chan *save) {
	k.Lock()
	done := k.calls[id]
	delete(k.calls, id)
	k.Unlock()
	if done == nil {
		return
	}
	switch {
	case status == "0" && l.right(done.data):
		l.tally.saved(done.one)
		if l.acks.on {
			l.acks.saved(done.one, grpcVersion(done.data))
		}
	case (status == "14" || status == "8" || status == "RST_STREAM") && !l.over():
		l.tally.refuse(done.one, "status "+status)
		done.one.tries++
		time.AfterFunc(backOff(done.one.tries), func() {
			again <- done.one
			free <- struct{}{}
		})
		return
	default:
		l.tally.refuse(done.one, "status "+status)
	}
	free <- struct{}{}
}

// What session.proto says, and bench/peers/empty.py.
const (
	savePath  = "/finalbell.v1.SessionService/SaveAnswer"
	emptyPath = "/finalbell.bench.Empty/Call"

	fieldSession, fieldQuestion, fieldChoice, fieldClientTs, fieldClientSeq = 1, 2, 3, 8, 9
	replySaved, replyVersion                                                = 1, 4
)

// grpcRequest is a SaveAnswerRequest behind gRPC's prefix.
func grpcRequest(one *save) []byte {
	message := make([]byte, 5, 128)
	text := func(number byte, value string) {
		message = append(message, number<<3|2, byte(len(value)))
		message = append(message, value...)
	}
	text(fieldSession, one.session.ID)
	text(fieldQuestion, one.question.ID)
	text(fieldChoice, one.choice)
	stamp := binary.AppendUvarint([]byte{8}, uint64(one.due.Unix()))
	stamp = binary.AppendUvarint(append(stamp, 16), uint64(one.due.Nanosecond()/1e6*1e6))
	message = append(message, fieldClientTs<<3|2, byte(len(stamp)))
	message = append(message, stamp...)
	message = append(message, fieldClientSeq<<3)
	message = binary.AppendUvarint(message, uint64(one.seq))
	binary.BigEndian.PutUint32(message[1:5], uint32(len(message)-5))
	return message
}

func grpcSaved(reply []byte) bool { return field(reply, replySaved) == 1 }

func grpcVersion(reply []byte) uint64 { return field(reply, replyVersion) }

// right tells whether a reply is what was asked for.
func (l *load) right(reply []byte) bool {
	return l.mode == "empty" || l.mode == "ranks-grpc" && grpcRanked(reply) || l.mode == "grpc" && grpcSaved(reply)
}

// field returns a number of a SaveAnswerResponse.
func field(reply []byte, number uint64) uint64 {
	if len(reply) >= 5 {
		for found, value := range fields(reply[5:]) {
			if found == number {
				return value.number
			}
		}
	}
	return 0
}

// A value is a field's number, or what it holds.
type value struct {
	number uint64
	held   []byte
}

// fields goes through the fields of a message; it stops at what it cannot read.
func fields(message []byte) iter.Seq2[uint64, value] {
	return func(yield func(uint64, value) bool) {
		for len(message) > 0 {
			tag, n := binary.Uvarint(message)
			if n <= 0 {
				return
			}
			message = message[n:]
			var found value
			switch tag & 7 {
			case 0, 2:
				if found.number, n = binary.Uvarint(message); n <= 0 {
					return
				}
				message = message[n:]
				if tag&7 == 2 {
					if found.number > uint64(len(message)) {
						return
					}
					found.held, message = message[:found.number], message[found.number:]
				}
			case 1, 5:
				size := 8 - int(tag&4)
				if len(message) < size {
					return
				}
				message = message[size:]
			default:
				return
			}
			if !yield(tag>>3, found) {
				return
			}
		}
	}
}
