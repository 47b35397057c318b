package authn

import (
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	kjson "sigs.k8s.io/json"
)

// maxTokenBytes caps a token before anything looks inside. Tokens of the
// platforms we know stay under 8 KiB; RFC 7519 sets no limit of its own.
const maxTokenBytes = 16 << 10

// peekIssuer reads the iss claim without verifying anything: it only chooses
// the issuer whose keys then decide. Empty means that token is no JWT in the
// compact form (RFC 7515 section 3.1), or names no issuer.
func peekIssuer(token string) string {
	if len(token) > maxTokenBytes || strings.Count(token, ".") != 2 {
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
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(b, &claims); err != nil {
		return ""
	}
	return claims.Issuer
}

// checkHeader refuses headers whose meaning we'd have to trust the token for.
// The header isn't verified yet.
func checkHeader(token string, allowed []string) error {
	part, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return errors.New("header is not base64url")
	}
	header, err := decodeObject(b)
	if err != nil {
		return errors.New("header is not one JSON object with distinct names")
	}
	// RFC 7515 section 4.1.11: what isn't understood in crit must refuse. We
	// understand no extension, nor b64 (RFC 7797), which go-jose would.
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return errors.New("header carries an extension")
		}
	}
	if alg, ok := header["alg"].(string); !ok || !slices.Contains(allowed, alg) {
		return errors.New("signing algorithm is not allowed")
	}
	return nil
}

// decodeObject decodes one JSON object with case-sensitive, distinct names at
// every depth. encoding/json takes "ISS" for "iss" and the last of two.
func decodeObject(b []byte) (map[string]any, error) {
	var m map[string]any
	strict, err := kjson.UnmarshalStrict(b, &m)
	if err != nil {
		return nil, err
	}
	if len(strict) > 0 {
		return nil, strict[0]
	}
	if m == nil {
		return nil, errors.New("is null")
	}
	return m, nil
}

// checkTimes holds exp, nbf and iat (RFC 7519 section 4.1) against now.
func checkTimes(claims map[string]any, now time.Time, maxAge, skew time.Duration) error {
	exp, err := timeClaim(claims, "exp")
	if err != nil {
		return err
	}
	iat, err := timeClaim(claims, "iat")
	if err != nil {
		return err
	}
	if !now.Before(exp.Add(skew)) {
		return errors.New("token is expired")
	}
	if iat.After(now.Add(skew)) {
		return errors.New("token was issued in the future")
	}
	if now.Sub(iat) > maxAge+skew {
		return errors.New("token is older than the issuer's maxTokenAge")
	}
	if _, ok := claims["nbf"]; ok {
		nbf, err := timeClaim(claims, "nbf")
		if err != nil {
			return err
		}
		if nbf.After(now.Add(skew)) {
			return errors.New("token is not valid yet")
		}
	}
	return nil
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
	var auds []string
	switch v := claims["aud"].(type) {
	case string:
		auds = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("claim aud is not a list of strings")
			}
			auds = append(auds, s)
		}
	default:
		return nil, errors.New("claim aud is missing or of another type")
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
