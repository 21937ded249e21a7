package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "finalbell/bench/peers/go/gen"
)

const (
	shards         = 64
	maxAnswerBytes = 256 * 1024
	maxLogEntries  = 50_000
)

// peer serves SaveAnswer; the other RPCs are UNIMPLEMENTED.
type peer struct {
	pb.UnimplementedSessionServiceServer
	tokens    *tokens
	sessions  *sessions
	calls     *coalescer
	validator protovalidate.Validator
}

func newPeer(client *redis.Client, tokens *tokens, function string) (*peer, error) {
	validator, err := protovalidate.New(protovalidate.WithMessages(&pb.SaveAnswerRequest{}))
	return &peer{
		tokens:    tokens,
		sessions:  &sessions{client, newCache[string, facts](), newCache[string, map[string]question]()},
		calls:     &coalescer{client: client, function: function},
		validator: validator,
	}, err
}

// SaveAnswer saves the answer to one question.
func (p *peer) SaveAnswer(ctx context.Context, request *pb.SaveAnswerRequest) (*pb.SaveAnswerResponse, error) {
	student, err := p.tokens.student(sent(ctx, "authorization"))
	if err != nil {
		return nil, err
	}
	if err := p.validator.Validate(request); err != nil {
		return nil, invalid(err)
	}
	key, err := givenKey(sent(ctx, "idempotency-key"), request.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	session, err := uuid.Parse(request.SessionId)
	if err != nil {
		return nil, invalidField("sessionId", "is not a UUID")
	}
	shard := fmt.Sprintf("{%02d}:", session[15]%shards)
	hash := "s:" + shard + session.String()
	of, err := p.sessions.factsOf(ctx, hash)
	if err != nil {
		return nil, err
	}
	if of.student != student {
		return nil, sessionNotFound()
	}
	paper, err := p.sessions.paper(ctx, of)
	if err != nil {
		return nil, err
	}
	asked, ok := paper[request.QuestionId]
	if !ok {
		return nil, invalidField("questionId", "is not a question of this exam")
	}
	given := answerOf(request)
	if err := misfit(asked, given); err != nil {
		return nil, err
	}
	tag := shard[:len(shard)-1]
	reply, err := p.calls.submit(ctx, []string{hash, "log:" + tag, "gen:" + tag, "dirty:" + tag}, []any{
		student, request.QuestionId, given.packed, keyDigest(key),
		bodyDigest(request.QuestionId, given.packed, request.GetClientSeq()), request.GetClientSeq(),
		maxAnswerBytes, maxLogEntries,
	})
	if err != nil {
		return nil, failed(err)
	}
	return answered(request.QuestionId, reply)
}

// answered turns the function's reply into the response, or into the refusal that it means.
func answered(questionID string, reply []any) (*pb.SaveAnswerResponse, error) {
	outcome, _ := reply[0].(string)
	switch outcome {
	case "UNKNOWN", "RESTORE": // finalbell would bring it back from PostgreSQL; what Redis does not have does not exist here
		return nil, sessionNotFound()
	}
	version, at, ends, now := reply[1].(int64), reply[2].(int64), reply[3].(int64), reply[4].(int64)
	switch outcome {
	case "SAVED", "REPLAYED":
		return &pb.SaveAnswerResponse{Saved: true, SavedAt: timestamp(at), Version: int32(version), EndsAt: timestamp(ends)}, nil
	case "SUPERSEDED":
		current := standing(questionID, reply[5].(string))
		return &pb.SaveAnswerResponse{Superseded: true, Version: int32(version), EndsAt: timestamp(ends), Current: current}, nil
	case "ENDED":
		return nil, sessionEnded(ends, now)
	case "SUBMITTED":
		return nil, refusal(codes.FailedPrecondition, "SESSION_SUBMITTED",
			"The session is handed in; its answers can no longer change.", nil)
	case "PAUSED":
		return nil, refusal(codes.FailedPrecondition, "SESSION_PAUSED", "The session is paused; resume it first.", nil)
	case "REUSED":
		return nil, refusal(codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED",
			"This key was used for another answer; send a fresh key with every change.", nil)
	case "FULL":
		return nil, invalidField("text", "makes the session's answers longer than 262,144 bytes in all")
	}
	return nil, fmt.Errorf("the function answered %q", outcome)
}

// failed says what a caller may be told of a call that had no reply.
func failed(err error) error {
	switch {
	case errors.Is(err, errOverloaded):
		return unavailable("OVERLOADED", "Too many requests wait; this one was not applied.")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	return storeUnavailable()
}

func invalid(err error) error {
	var found *protovalidate.ValidationError
	if errors.As(err, &found) && len(found.Violations) > 0 {
		first := found.Violations[0]
		return invalidField(protovalidate.FieldPathString(first.Proto.GetField()), first.Proto.GetMessage())
	}
	return err
}

// givenKey returns the idempotency key, from the metadata or the field; two that differ are an error.
func givenKey(header, field string) (string, error) {
	if header != "" && field != "" && header != field {
		return "", invalidField("idempotencyKey", "is sent twice, and differs; send one, as header or as field")
	}
	key := header
	if key == "" {
		key = field
	}
	visible := strings.IndexFunc(key, func(one rune) bool { return one < '!' || one > '~' }) < 0
	if len(key) < 8 || len(key) > 64 || !visible {
		return "", invalidField("idempotencyKey", "is needed: 8 to 64 visible ASCII characters, as header Idempotency-Key")
	}
	return key, nil
}

func sent(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}
