// Verify a finalbell receipt, with Go's standard library alone: go run receipt.go keys.json receipt.txt [answers.json]
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

func main() {
	var keys struct{ Keys []struct{ Kid, X string } }
	var header struct{ Alg, Kid, Typ string }
	var says struct{ AnswersSha256 string }
	must(json.Unmarshal(read(1), &keys))
	part := strings.Split(strings.TrimSpace(string(read(2))), ".") // header, payload, signature
	check(len(part) == 3, "damaged")
	must(json.Unmarshal(decode(part[0]), &header))
	check(header.Alg == "EdDSA" && header.Typ == "finalbell-receipt+jwt", "not a receipt")
	valid := false
	for _, key := range keys.Keys { // the receipt only names its key: the key itself is ours
		public := decode(key.X)
		valid = valid || key.Kid == header.Kid && len(public) == ed25519.PublicKeySize &&
			ed25519.Verify(public, []byte(part[0]+"."+part[1]), decode(part[2]))
	}
	check(valid, "the signature is not valid")
	must(json.Unmarshal(decode(part[1]), &says))
	if len(os.Args) > 3 { // the canonical bytes of docs/answers.md
		sum := sha256.Sum256(read(3))
		check(hex.EncodeToString(sum[:]) == says.AnswersSha256, "these are not the answers")
	}
	fmt.Println("valid:", string(decode(part[1])))
}

func read(argument int) []byte { data, err := os.ReadFile(os.Args[argument]); must(err); return data }

func decode(part string) []byte {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	must(err)
	return data
}

func must(err error) { check(err == nil, fmt.Sprint(err)) }

func check(good bool, otherwise string) {
	if !good {
		fmt.Println("not valid:", otherwise)
		os.Exit(1)
	}
}
