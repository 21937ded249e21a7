package main

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	pb "finalbell/bench/peers/go/gen"
)

// fitting says which field answers which type of question.
var fitting = map[string]string{
	"single_choice": "choice", "multiple_choice": "choices", "numeric": "number", "short_text": "text", "essay": "text",
}

// answer is an answer in canonical form, with the options that it picks.
type answer struct {
	field, packed string
	picks         []string
}

func answerOf(request *pb.SaveAnswerRequest) answer {
	switch given := request.Answer.(type) {
	case *pb.SaveAnswerRequest_Choice:
		return answer{"choice", "c:" + given.Choice, []string{given.Choice}}
	case *pb.SaveAnswerRequest_Choices:
		picks := slices.Sorted(slices.Values(given.Choices.Ids))
		return answer{"choices", "m:" + strings.Join(picks, ","), picks}
	case *pb.SaveAnswerRequest_Number:
		return answer{"number", "n:" + given.Number, nil}
	case *pb.SaveAnswerRequest_Text:
		return answer{"text", "t:" + given.Text, nil}
	default:
		return answer{"cleared", "-:", nil}
	}
}

// misfit refuses an answer that does not fit its question.
func misfit(of question, given answer) error {
	if given.field == "cleared" {
		return nil
	}
	if wanted := fitting[of.kind]; given.field != wanted {
		return invalidField(given.field, "does not answer this question: it takes '"+wanted+"'")
	}
	for _, pick := range given.picks {
		if !of.options[pick] {
			return invalidField(given.field, "is not an option of this question")
		}
	}
	return nil
}

func keyDigest(key string) []byte {
	digest := sha256.Sum256([]byte(key))
	return digest[:8]
}

func bodyDigest(questionID, packed string, sequence uint32) []byte {
	digest := sha256.Sum256([]byte(questionID + "\x1f" + packed + "\x1f" + strconv.FormatUint(uint64(sequence), 10)))
	return digest[:4]
}

// standing reads an answer as the session's hash has it: version, time, client sequence, slot, then the packed answer.
func standing(questionID, raw string) *pb.SavedAnswer {
	head, packed := []byte(raw[:18]), raw[18:]
	saved := &pb.SavedAnswer{QuestionId: questionID, Version: int32(number6(head)), SavedAt: timestamp(number6(head[6:]))}
	if sequence := binary.BigEndian.Uint32(head[12:]); sequence != 0 {
		saved.ClientSeq = &sequence
	}
	value := packed[2:]
	switch packed[0] {
	case 'c':
		saved.Answer = &pb.SavedAnswer_Choice{Choice: value}
	case 'm':
		saved.Answer = &pb.SavedAnswer_Choices{Choices: &pb.Choices{Ids: strings.Split(value, ",")}}
	case 'n':
		saved.Answer = &pb.SavedAnswer_Number{Number: value}
	case 't':
		saved.Answer = &pb.SavedAnswer_Text{Text: value}
	default:
		saved.Answer = &pb.SavedAnswer_Cleared{Cleared: true}
	}
	return saved
}

func number6(from []byte) int64 {
	return int64(binary.BigEndian.Uint16(from))<<32 | int64(binary.BigEndian.Uint32(from[2:]))
}
