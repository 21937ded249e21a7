package main

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"sync"
	"time"
)

// A tally is what came of the saves that were due in the measured time.
type tally struct {
	sync.Mutex
	from      time.Time
	latencies []uint32 // µs
	seconds   map[int]int
	refused   map[string]int
	broken    int
	repeated  int
	last      time.Time
}

func newTally() *tally {
	return &tally{seconds: map[int]int{}, refused: map[string]int{}, latencies: make([]uint32, 0, 1<<20)}
}

func (t *tally) saved(one *save) {
	now := time.Now()
	t.Lock()
	defer t.Unlock()
	if one.tries > 0 {
		t.repeated++
	}
	if one.due.Before(t.from) {
		return
	}
	t.latencies = append(t.latencies, uint32(now.Sub(one.due).Microseconds()))
	t.seconds[int(now.Sub(t.from).Seconds())]++
	t.last = now
}

func (t *tally) refuse(one *save, status string) {
	t.Lock()
	defer t.Unlock()
	if !one.due.Before(t.from) {
		t.refused[status]++
	}
}

func (t *tally) breaks() {
	t.Lock()
	defer t.Unlock()
	t.broken++
}

type report struct {
	Mode        string         `json:"mode"`
	Offered     float64        `json:"offeredPerSecond"`
	Connections int            `json:"connections"`
	Streams     int            `json:"streams,omitempty"`
	Seconds     float64        `json:"seconds"`
	Saved       int            `json:"saved"`
	Rate        float64        `json:"savedPerSecond"`
	Slowest     int            `json:"slowestSecond"`
	P50         float64        `json:"p50Ms"`
	P90         float64        `json:"p90Ms"`
	P99         float64        `json:"p99Ms"`
	P999        float64        `json:"p999Ms"`
	Max         float64        `json:"maxMs"`
	Refused     map[string]int `json:"refused"`
	Broken      int            `json:"brokenConnections"`
	Repeated    int            `json:"repeated"`
	LoadCPU     float64        `json:"loadCpuSeconds"`
	Accepted    int64          `json:"accepted"` // signals
}

func (t *tally) report(o options, cpu time.Duration) report {
	t.Lock()
	defer t.Unlock()
	slices.Sort(t.latencies)
	at := func(share float64) float64 {
		if len(t.latencies) == 0 {
			return 0
		}
		return float64(t.latencies[min(len(t.latencies)-1, int(share*float64(len(t.latencies))))]) / 1000
	}
	slowest := 0
	for second := range int(o.seconds) {
		if count := t.seconds[second]; second == 0 || count < slowest {
			slowest = count
		}
	}
	took := max(o.seconds, t.last.Sub(t.from).Seconds())
	found := report{
		Mode: o.mode, Offered: o.rate, Connections: o.connections, Seconds: o.seconds,
		Saved: len(t.latencies), Rate: float64(len(t.latencies)) / took, Slowest: slowest,
		P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: at(1),
		Refused: t.refused, Broken: t.broken, Repeated: t.repeated, LoadCPU: cpu.Seconds(), Accepted: accepted.Load(),
	}
	if o.mode == "grpc" || o.mode == "ranks-grpc" || o.mode == "empty" {
		found.Streams = o.streams
	}
	return found
}

// Acks are the highest versions that were acknowledged, by session and question.
type acks struct {
	sync.Mutex
	on      bool
	highest map[*session]map[string]ack
}

type ack struct {
	version uint64
	choice  string
}

func newAcks(on bool) *acks { return &acks{on: on, highest: map[*session]map[string]ack{}} }

func (a *acks) saved(one *save, version uint64) {
	if !a.on {
		return
	}
	a.Lock()
	defer a.Unlock()
	of := a.highest[one.session]
	if of == nil {
		of = map[string]ack{}
		a.highest[one.session] = of
	}
	if version >= of[one.question.ID].version {
		of[one.question.ID] = ack{version, one.choice}
	}
}

func (a *acks) write(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewWriter(file)
	out := json.NewEncoder(lines)
	for of, questions := range a.highest {
		for name, one := range questions {
			if err := out.Encode(map[string]any{"sessionId": of.ID, "questionId": name, "version": one.version, "choice": one.choice}); err != nil {
				return err
			}
		}
	}
	return lines.Flush()
}
