package authn

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxTokenBytes caps a token before anything looks inside. Tokens of the
// platforms we know stay under 8 KiB; RFC 7519 sets no limit of its own.
const maxTokenBytes = 16 << 10

// maxClaimsDepth bounds how deeply claims may nest. Kubernetes' own, the deepest
// that we know, reach 3.
const maxClaimsDepth = 32

// peekIssuer reads the iss claim without verifying anything: it only chooses
// the issuer whose keys then decide. Empty means that token is no JWT in the
// compact form (RFC 7515 section 3.1), or names no issuer.
func peekIssuer(token string) string {
	if !isCompact(token) {
		return ""
	}
	header, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if header == "" || signature == "" {
		return ""
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return ""
	}
	// A second iss is refused once the signature holds; this is only a look.
	d := decoderOf(b, jsontext.AllowDuplicateNames(true))
	defer decoders.Put(d)
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return ""
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return ""
		}
		if name.String() != "iss" {
			if d.SkipValue() != nil {
				return ""
			}
			continue
		}
		if d.PeekKind() != '"' {
			return ""
		}
		iss, err := d.ReadToken()
		if err != nil {
			return ""
		}
		return iss.String()
	}
	return ""
}

// mayBeOurs is the first, cheapest look: what it refuses is no JWT that any
// configured issuer signs, such as a bootstrap token.
func mayBeOurs(token string) bool {
	return len(token) <= maxTokenBytes && strings.Count(token, ".") == 2
}

// isCompact holds token to the letters of base64url and two dots. Decoders skip
// line breaks; a token with one is no token (RFC 7515 section 2, Base64url).
func isCompact(token string) bool {
	if !mayBeOurs(token) {
		return false
	}
	for i := range len(token) {
		if !compactLetters[token[i]] {
			return false
		}
	}
	return true
}

// compactLetters are those of a token (RFC 4648 section 5, and the dot).
var compactLetters = func() (t [256]bool) {
	for c := range t {
		t[c] = isAlphanumeric(byte(c)) || c == '-' || c == '_' || c == '.'
	}
	return t
}()

// header is what we read of a token's header. jku, x5u, jwk and x5c aren't here:
// keys come from the issuer alone.
type header struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Critical  jsontext.Value `json:"crit"`
	Base64    jsontext.Value `json:"b64"`
}

// checkHeader refuses headers whose meaning we'd have to trust the token for.
// The header isn't verified yet.
func checkHeader(token string, allowed []string) (header, error) {
	var h header
	part, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return h, errors.New("header is not base64url")
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, errors.New("header is not one JSON object with distinct names")
	}
	// RFC 7515 section 4.1.11: what isn't understood in crit must refuse. We
	// understand no extension, nor b64 (RFC 7797), which go-jose would.
	if h.Critical != nil || h.Base64 != nil {
		return h, errors.New("header carries an extension")
	}
	if !slices.Contains(allowed, h.Algorithm) {
		return h, errors.New("signing algorithm is not allowed")
	}
	return h, nil
}

// decodeObject decodes one JSON object with case-sensitive, distinct names at
// every depth (encoding/json takes "ISS" for "iss" and the last of two), valid
// UTF-8 and bounded nesting. Whole numbers are int64, others float64.
func decodeObject(b []byte) (map[string]any, error) {
	d := decoderOf(b)
	defer decoders.Put(d)
	if d.PeekKind() != '{' {
		return nil, errors.New("is no JSON object")
	}
	v, err := decodeValue(d, maxClaimsDepth)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	m, _ := v.(map[string]any)
	return m, nil
}

// decoders are spare ones. What one read is overwritten by its next Reset.
var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

func decoderOf(b []byte, opts ...jsontext.Options) *jsontext.Decoder {
	d, ok := decoders.Get().(*jsontext.Decoder)
	if !ok {
		d = new(jsontext.Decoder)
	}
	d.Reset(bytes.NewBuffer(b), opts...)
	return d
}

func decodeValue(d *jsontext.Decoder, depth int) (any, error) {
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case '{':
		if depth == 0 {
			return nil, errors.New("nests too deeply")
		}
		m := make(map[string]any, 8)
		if depth == maxClaimsDepth {
			m = make(map[string]any, 24) // a token's claims: more than most have
		}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String() // name is only valid until the next read
			if m[key], err = decodeValue(d, depth-1); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return m, err
	case '[':
		if depth == 0 {
			return nil, errors.New("nests too deeply")
		}
		l := []any{}
		for d.PeekKind() != ']' {
			v, err := decodeValue(d, depth-1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err := d.ReadToken()
		return l, err
	case '"':
		return t.String(), nil
	case 't', 'f':
		return t.Bool(), nil
	case 'n':
		return nil, nil
	default:
		return decodeNumber(t.String())
	}
}

func decodeNumber(s string) (any, error) {
	if !strings.ContainsAny(s, ".eE") {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n, nil
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, errors.New("holds a number that is none") // strconv's text quotes it
	}
	return f, nil
}

// times are those of a token (RFC 7519 section 4.1).
type times struct {
	expires, issued time.Time
	notBefore       time.Time // zero where the token has none
}

func timesOf(claims map[string]any) (t times, err error) {
	if t.expires, err = timeClaim(claims, "exp"); err != nil {
		return t, err
	}
	if t.issued, err = timeClaim(claims, "iat"); err != nil {
		return t, err
	}
	if _, ok := claims["nbf"]; ok {
		t.notBefore, err = timeClaim(claims, "nbf")
	}
	return t, err
}

// check holds t against now.
func (t times) check(now time.Time, maxAge, skew time.Duration) error {
	switch {
	case !now.Before(t.expires.Add(skew)):
		return errors.New("token is expired")
	case t.issued.After(now.Add(skew)):
		return errors.New("token was issued in the future")
	case now.Sub(t.issued) > maxAge+skew:
		return errors.New("token is older than the issuer's maxTokenAge")
	case t.notBefore.After(now.Add(skew)):
		return errors.New("token is not valid yet")
	}
	return nil
}

// end is the first moment at which check refuses t for good.
func (t times) end(maxAge, skew time.Duration) time.Time {
	if old := t.issued.Add(maxAge); old.Before(t.expires) {
		return old.Add(skew)
	}
	return t.expires.Add(skew)
}

// maxTimeSeconds is the year 9999: seconds beyond it are no time that an issuer
// means, and would overflow time arithmetic further on.
const maxTimeSeconds = 253402300799

func timeClaim(claims map[string]any, name string) (time.Time, error) {
	var seconds float64
	switch v := claims[name].(type) {
	case nil:
		return time.Time{}, errors.New("claim " + name + " is missing")
	case int64:
		seconds = float64(v)
	case float64:
		seconds = v
	default:
		return time.Time{}, errors.New("claim " + name + " is not a number")
	}
	if math.IsNaN(seconds) || seconds < 0 || seconds > maxTimeSeconds {
		return time.Time{}, errors.New("claim " + name + " is not a time")
	}
	return time.Unix(int64(seconds), 0), nil
}

// acceptedAudiences are those of accepted that the token is for. The aud claim
// is one string or a list of them (RFC 7519 section 4.1.3).
func acceptedAudiences(claims map[string]any, accepted []string) ([]string, error) {
	auds, err := audiencesOf(claims)
	if err != nil {
		return nil, err
	}
	var both []string
	for _, a := range accepted {
		if slices.Contains(auds, a) {
			both = append(both, a)
		}
	}
	if len(both) == 0 {
		return nil, errors.New("token is for another audience")
	}
	return both, nil
}

func audiencesOf(claims map[string]any) ([]string, error) {
	switch v := claims["aud"].(type) {
	case string:
		return []string{v}, nil
	case []any:
		auds := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("claim aud is not a list of strings")
			}
			auds = append(auds, s)
		}
		return auds, nil
	}
	return nil, errors.New("claim aud is missing or of another type")
}

// credentialID names the token as the API server names its own
// (apiserver v0.37, pkg/authentication/serviceaccount: CredentialIDForJTI).
// A token without a jti has none.
func credentialID(claims map[string]any) (string, error) {
	v, ok := claims["jti"]
	if !ok {
		return "", nil
	}
	jti, ok := v.(string)
	if !ok {
		return "", errors.New("claim jti is not a string")
	}
	if jti == "" {
		return "", nil
	}
	if err := checkPlain(jti, maxTextBytes); err != nil {
		return "", errors.New("claim jti " + err.Error())
	}
	return "JTI=" + jti, nil
}
