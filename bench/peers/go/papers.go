package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// question is what checking an answer needs.
type question struct {
	kind    string
	options map[string]bool
}

// facts are what never changes of a session.
type facts struct {
	student, exam, version string
}

// sessions reads what checks need from Redis, once.
type sessions struct {
	client *redis.Client
	facts  *cache[string, facts]
	papers *cache[string, map[string]question]
}

// factsOf returns a session's facts, from the hash at key.
func (s *sessions) factsOf(ctx context.Context, key string) (facts, error) {
	if known, ok := s.facts.get(key); ok {
		return known, nil
	}
	values, err := s.client.HMGet(ctx, key, "u", "x", "p").Result()
	if err != nil {
		return facts{}, storeUnavailable()
	}
	student, _ := values[0].(string)
	exam, _ := values[1].(string)
	version, _ := values[2].(string)
	if student == "" {
		return facts{}, sessionNotFound()
	}
	found := facts{student, exam, version}
	s.facts.put(key, found)
	return found, nil
}

// paper returns an exam's questions by id.
func (s *sessions) paper(ctx context.Context, of facts) (map[string]question, error) {
	key := "paper:" + of.exam + ":" + of.version
	if known, ok := s.papers.get(key); ok {
		return known, nil
	}
	kept, err := s.client.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("%s is not kept in Redis", key)
	}
	if err != nil {
		return nil, storeUnavailable()
	}
	questions := map[string]question{}
	for _, row := range strings.Split(kept, "\n")[1:] {
		parts := strings.Split(row, "\t")
		found := question{parts[1], map[string]bool{}}
		for _, option := range strings.Split(parts[2], ",") {
			found.options[option] = option != ""
		}
		questions[parts[0]] = found
	}
	s.papers.put(key, questions)
	return questions, nil
}
