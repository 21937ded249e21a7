package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A student asks for the top of a board and the places around their own: -mode ranks as REST, ranks-grpc as gRPC. Latencies
// count as those of saves do.

const (
	ranksPath = "/finalbell.v1.LeaderboardService/GetLeaderboard"

	ranksExam, ranksTop, ranksAround = 1, 2, 3
	replyMe, replyRebuilding         = 2, 6
)

func (l *load) ranksGet(to []byte, one *save) []byte {
	return fmt.Appendf(to, "GET /api/v1/exams/%s/leaderboard?top=%d&around=me HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n",
		l.exam, l.top, l.address, one.session.Token)
}

// ranked tells whether a reply has the student's own place: one without is not an answer to what was asked.
func ranked(body []byte) bool {
	return bytes.Contains(body, []byte(`"me":{`)) && bytes.Contains(body, []byte(`"rebuilding":false`))
}

// ranksRequest is a GetLeaderboardRequest behind gRPC's prefix.
func (l *load) ranksRequest() []byte {
	message := append(make([]byte, 5, 80), ranksExam<<3|2, byte(len(l.exam)))
	message = append(message, l.exam...)
	message = binary.AppendUvarint(append(message, ranksTop<<3), uint64(l.top))
	message = append(message, ranksAround<<3|2, 2, 'm', 'e')
	binary.BigEndian.PutUint32(message[1:5], uint32(len(message)-5))
	return message
}

func grpcRanked(reply []byte) bool {
	mine := false
	for what, value := range fields(reply[min(5, len(reply)):]) {
		mine = mine || what == replyMe
		if what == replyRebuilding && value.number != 0 {
			return false
		}
	}
	return mine
}
