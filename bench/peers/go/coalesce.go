package main

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
)

const (
	inFlight = 2
	batch    = 512
	bound    = 8192
)

var errOverloaded = errors.New("the queue is full")

// call is one FCALL that waits for its reply.
type call struct {
	keys      []string
	arguments []any
	done      chan struct{}
	reply     []any
	err       error
}

// coalescer sends what arrives while a round trip is in flight as the next pipeline, at most two at a time, without a timer.
type coalescer struct {
	client   *redis.Client
	function string
	mutex    sync.Mutex
	waiting  []*call
	senders  int
}

// submit makes one call. A caller whose context ends gets its error; the call may be on its way already.
func (c *coalescer) submit(ctx context.Context, keys []string, arguments []any) ([]any, error) {
	one := &call{keys: keys, arguments: arguments, done: make(chan struct{})}
	c.mutex.Lock()
	if len(c.waiting) >= bound {
		c.mutex.Unlock()
		return nil, errOverloaded
	}
	c.waiting = append(c.waiting, one)
	if c.senders < inFlight {
		c.senders++
		go c.sendAll()
	}
	c.mutex.Unlock()
	select {
	case <-one.done:
		return one.reply, one.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sendAll sends until nothing waits.
func (c *coalescer) sendAll() {
	for {
		taken := c.take()
		if len(taken) == 0 {
			return
		}
		c.send(taken)
	}
}

func (c *coalescer) take() []*call {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	count := min(batch, len(c.waiting))
	if count == 0 {
		c.senders--
		return nil
	}
	taken := c.waiting[:count:count]
	c.waiting = c.waiting[count:]
	return taken
}

func (c *coalescer) send(taken []*call) {
	pipeline, commands := c.client.Pipeline(), make([]*redis.Cmd, len(taken))
	ctx := context.Background()
	for i, one := range taken {
		commands[i] = pipeline.FCall(ctx, c.function, one.keys, one.arguments...)
	}
	_, _ = pipeline.Exec(ctx) // each command has its own error
	for i, one := range taken {
		one.reply, one.err = commands[i].Slice()
		close(one.done)
	}
}
