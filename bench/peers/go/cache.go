package main

import "sync"

// cached bounds every cache; a full one drops what came first.
const cached = 200_000

// cache remembers values by key.
type cache[K comparable, V any] struct {
	mutex sync.Mutex
	known map[K]V
	order []K
	next  int
}

func newCache[K comparable, V any]() *cache[K, V] {
	return &cache[K, V]{known: map[K]V{}}
}

func (c *cache[K, V]) get(key K) (V, bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	value, found := c.known[key]
	return value, found
}

func (c *cache[K, V]) put(key K, value V) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if _, found := c.known[key]; !found {
		if len(c.order) < cached {
			c.order = append(c.order, key)
		} else {
			delete(c.known, c.order[c.next])
			c.order[c.next] = key
			c.next = (c.next + 1) % cached
		}
	}
	c.known[key] = value
}
