// Load offers answer saves to finalbell and tells what became of each; it asks for boards, watches them, and reads, too (ranks.go,
// watch.go, read.go).
//
// It is one process that costs little (about 12 µs a save), since on two cores the load's own cost is part of the figure.
// Closed loop (-rate 0): every connection sends its next save when the last one is answered: the most that can be served.
// Open loop (-rate N): save i is due at i/N seconds whatever became of those before it, and its latency counts from then:
// a server that stalls for a second shows a second, not one slow save.
//
// Saves go round all sessions of the -sessions file (finalbell rehearse --prepare writes one), each with its own token, a
// fresh key, the next question and another choice. One that is answered 503, or whose connection breaks, is sent again with
// its key, as an app does.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type question struct {
	ID      string   `json:"id"`
	Choices []string `json:"choices"`
}

type session struct {
	ID        string     `json:"sessionId"`
	Token     string     `json:"token"`
	Questions []question `json:"questions"`
	Signature string     `json:"signature"` // of a gateway's message
	Body      string     `json:"body"`
	saves     atomic.Uint32
}

// Client sequences rise from run to run over the same sessions, as they do in an app.
var firstSequence = uint32(time.Now().Unix()&(1<<22-1)) << 10

type options struct {
	mode        string
	address     string
	connections int
	streams     int
	rate        float64
	seconds     float64
	warm        float64
	run         string
	content     string
	exam        string
	top         int
	path        string
	tag         string
	report      int
}

// A save is one request: its place in the schedule, and what makes it up again when it has to be repeated.
type save struct {
	session  *session
	question *question
	choice   string
	key      string
	seq      uint32
	due      time.Time
	tries    int
}

type load struct {
	options
	sessions []*session
	next     atomic.Int64
	began    time.Time
	ends     time.Time
	tally    *tally
	acks     *acks
}

// take gives the next save, waiting until it is due; nil when the time is over.
func (l *load) take() *save {
	number := l.next.Add(1) - 1
	now := time.Now()
	due := now
	if l.rate > 0 {
		due = l.began.Add(time.Duration(float64(number) / l.rate * float64(time.Second)))
	}
	if due.After(l.ends) || now.After(l.ends) && l.mode != "hook" || l.mode == "hook" && number >= int64(len(l.sessions)) {
		return nil
	}
	if wait := due.Sub(now); wait > 0 {
		time.Sleep(wait)
	}
	one := l.sessions[number%int64(len(l.sessions))]
	seq := one.saves.Add(1)
	if len(one.Questions) == 0 { // a board is asked for, or a gateway tells something
		return &save{session: one, due: due}
	}
	asked := &one.Questions[int(seq)%len(one.Questions)]
	choice := asked.Choices[(int(seq)/len(one.Questions)+int(seq))%len(asked.Choices)]
	return &save{session: one, question: asked, choice: choice, key: fmt.Sprintf("%s-%012x", l.run, number), seq: firstSequence + seq, due: due}
}

func main() {
	var o options
	var sessions, acked string
	var watchers int
	var opens, stalled float64
	flag.StringVar(&o.mode, "mode", "rest", "rest (HTTP/1.1 with JSON), grpc (HTTP/2 without TLS), submit (REST: every session is handed in once), ranks and ranks-grpc (GetLeaderboard), read (GET -path), hook (POST -path: a gateway tells of payments, each once), signals (clients report them), files (serve -path), watch and sse (a crowd that watches a board, gRPC or events), or empty (gRPC calls of bench/peers/empty.py)")
	flag.StringVar(&o.address, "address", "127.0.0.1:8080", "host:port")
	flag.StringVar(&sessions, "sessions", "", "file of sessions, one JSON object a line")
	flag.IntVar(&o.connections, "connections", 128, "how many connections")
	flag.IntVar(&o.streams, "streams", 32, "grpc: calls at once on each connection")
	flag.Float64Var(&o.rate, "rate", 0, "saves offered per second; 0: closed loop")
	flag.Float64Var(&o.seconds, "seconds", 10, "measured seconds")
	flag.Float64Var(&o.warm, "warm", 0, "seconds of the same load before that, which are not measured")
	flag.StringVar(&o.content, "content-type", "application/json", "rest: of the body")
	flag.IntVar(&o.report, "report", 25, "signals: how many in each report")
	flag.StringVar(&o.path, "path", "", "read, hook: where; files: the folder")
	flag.StringVar(&o.tag, "tag", "", "read: the ETag of the copy that the student has")
	flag.StringVar(&o.exam, "exam", "", "ranks, watch: whose board")
	flag.IntVar(&o.top, "top", 10, "ranks, watch: how many places from the top")
	flag.IntVar(&watchers, "watchers", 0, "watch: how many; 0: one for each session")
	flag.Float64Var(&opens, "opens", 1000, "watch: streams opened per second")
	flag.Float64Var(&stalled, "stalled", 0, "watch: the share that opens a stream and reads nothing more")
	flag.StringVar(&acked, "acked", "", "write the highest acknowledged version of each question here, one JSON object a line")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1) // 100,000 sessions in memory: collecting them costs more than all saves together
	debug.SetMemoryLimit(2 << 30)
	if o.mode == "files" {
		serveFiles(o.address, o.path)
	}
	o.run = fmt.Sprintf("%08x", uint32(time.Now().UnixNano()/1000))
	read, err := readSessions(sessions, o.mode == "rest" || o.mode == "grpc" || o.mode == "submit")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	l := &load{options: o, sessions: read, tally: newTally(), acks: newAcks(acked != "")}
	switch o.mode {
	case "submit":
		l.submitAll()
		return
	case "watch", "sse":
		l.watchAll(watchers, opens, stalled)
		return
	}
	l.began = time.Now()
	measured := l.began.Add(time.Duration(o.warm * float64(time.Second)))
	l.ends = measured.Add(time.Duration(o.seconds * float64(time.Second)))
	l.tally.from = measured
	var cpu time.Duration
	time.AfterFunc(time.Until(measured), func() { cpu = used() })

	var all sync.WaitGroup
	for range o.connections {
		all.Add(1)
		go func() {
			defer all.Done()
			if o.mode == "rest" || o.mode == "ranks" || o.mode == "read" || o.mode == "hook" || o.mode == "signals" {
				l.rest()
			} else {
				l.grpc()
			}
		}()
	}
	all.Wait()
	report := l.tally.report(o, used()-cpu)
	if acked != "" {
		if err := l.acks.write(acked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	json.NewEncoder(os.Stdout).Encode(report)
}

func used() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// readSessions reads sessions, or students without one, who have only a token, or gateways' messages.
func readSessions(path string, withQuestions bool) ([]*session, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var read []*session
	shared := map[string][]question{} // 100,000 sessions of one exam share its questions
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	for lines.Scan() {
		one := &session{}
		if err := json.Unmarshal(lines.Bytes(), one); err != nil {
			return nil, fmt.Errorf("line %d of %s: %w", len(read)+1, path, err)
		}
		if len(one.Questions) == 0 && withQuestions {
			return nil, fmt.Errorf("line %d of %s has no questions", len(read)+1, path)
		}
		if len(one.Questions) == 0 {
			read = append(read, one)
			continue
		}
		if known, ok := shared[one.Questions[0].ID+one.Questions[len(one.Questions)-1].ID]; ok && len(known) == len(one.Questions) {
			one.Questions = known
		} else {
			shared[one.Questions[0].ID+one.Questions[len(one.Questions)-1].ID] = one.Questions
		}
		read = append(read, one)
	}
	if len(read) == 0 {
		return nil, fmt.Errorf("%s has no sessions", path)
	}
	return read, lines.Err()
}
