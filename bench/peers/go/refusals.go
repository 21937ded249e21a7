package main

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// refusal is an error with finalbell's reason in its details, and more of them.
func refusal(code codes.Code, reason, message string, metadata map[string]string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "finalbell", Metadata: metadata}
	detailed, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		return err
	}
	return detailed.Err()
}

func tokenInvalid(message string) error {
	return refusal(codes.Unauthenticated, "TOKEN_INVALID", message, nil)
}

func tokenExpired() error {
	return refusal(codes.Unauthenticated, "TOKEN_EXPIRED", "The token has expired. Sign in again.", nil)
}

func sessionNotFound() error {
	return refusal(codes.NotFound, "SESSION_NOT_FOUND",
		"There is no such session. Check the id, and that the token is the one that started it.", nil)
}

func invalidField(field, why string) error {
	found := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: why}}}
	return refusal(codes.InvalidArgument, "INVALID_FIELD", "The request is not valid: "+field+": "+why+".", nil, found)
}

func unavailable(reason, message string) error {
	return refusal(codes.Unavailable, reason, message, nil, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
}

func storeUnavailable() error {
	return unavailable("STORE_UNAVAILABLE", "A store does not answer; repeat the call with the same key.")
}

func sessionEnded(endsMs, nowMs int64) error {
	facts := map[string]string{"endsAt": iso(endsMs), "serverTime": iso(nowMs)}
	return refusal(codes.FailedPrecondition, "SESSION_ENDED", "Time is over; what you saved before is being handed in.", facts)
}

func iso(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func timestamp(ms int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: ms / 1000, Nanos: int32(ms%1000) * 1_000_000}
}
