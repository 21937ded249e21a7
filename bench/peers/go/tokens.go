package main

import (
	"crypto/sha256"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	leeway       = 60 * time.Second
	longestToken = 8192
)

var (
	algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}
	studentID  = regexp.MustCompile(`^[A-Za-z0-9._|@:-]{1,64}$`)
)

// verified is a token's student, until the token expires.
type verified struct {
	student string
	expires time.Time
}

// tokens verifies tokens; a verified one is remembered by its digest until it expires.
type tokens struct {
	path, issuer, audience string
	known                  *cache[[sha256.Size]byte, verified]

	mutex    sync.Mutex
	modified time.Time
	keys     *jose.JSONWebKeySet
}

func newTokens(path, issuer, audience string) *tokens {
	return &tokens{path: path, issuer: issuer, audience: audience, known: newCache[[sha256.Size]byte, verified]()}
}

// student returns who is calling.
func (t *tokens) student(authorization string) (string, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", tokenInvalid("A token is needed: send the header 'Authorization: Bearer <token>'.")
	}
	if len(token) > longestToken {
		return "", tokenInvalid("The token is too long.")
	}
	digest := sha256.Sum256([]byte(token))
	if found, ok := t.known.get(digest); ok && found.expires.After(time.Now()) {
		return found.student, nil
	}
	found, err := t.verify(token)
	if err != nil {
		return "", err
	}
	t.known.put(digest, found)
	return found.student, nil
}

// verify checks signature and claims; the key is looked up by `kid` in our own set only.
func (t *tokens) verify(token string) (verified, error) {
	keys, err := t.currentKeys()
	if err != nil {
		return verified{}, err
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return verified{}, tokenInvalid("The token is not valid: its form or its signature is wrong. Sign in again.")
	}
	var claims jwt.Claims
	if err := parsed.Claims(keys, &claims); err != nil {
		return verified{}, tokenInvalid("The token is not valid: its form or its signature is wrong. Sign in again.")
	}
	if claims.Expiry == nil {
		return verified{}, tokenInvalid("The token has no valid 'exp', or its 'nbf' is no time.")
	}
	expires := claims.Expiry.Time().Add(leeway)
	if !expires.After(time.Now()) {
		return verified{}, tokenExpired()
	}
	expected := jwt.Expected{Issuer: t.issuer, AnyAudience: jwt.Audience{t.audience}, Time: time.Now()}
	if err := claims.ValidateWithLeeway(expected, leeway); err != nil {
		return verified{}, tokenInvalid("The token is for another issuer or audience, or not valid yet.")
	}
	if !studentID.MatchString(claims.Subject) {
		return verified{}, tokenInvalid("The token's 'sub' is not a student id.")
	}
	return verified{claims.Subject, expires}, nil
}

// currentKeys returns the keys, read again when the file has changed.
func (t *tokens) currentKeys() (*jose.JSONWebKeySet, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	file, err := os.Stat(t.path)
	if err != nil {
		return nil, err
	}
	if t.keys == nil || !file.ModTime().Equal(t.modified) {
		content, err := os.ReadFile(t.path)
		if err != nil {
			return nil, err
		}
		var keys jose.JSONWebKeySet
		if err := json.Unmarshal(content, &keys); err != nil {
			return nil, err
		}
		t.keys, t.modified = &keys, file.ModTime()
	}
	return t.keys, nil
}
