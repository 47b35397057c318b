package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a key set. A token without a key id is tried with every key, so
// their number bounds what such a token costs; Entra ID has about ten.
const (
	minRSABits = 2048 // RFC 7518 section 3.3
	maxRSABits = 8192
	maxKeys    = 64
)

// readKeySet keeps of a JSON Web Key Set (RFC 7517) the public keys that may
// sign tokens. Others are left out, as section 5 there asks for: keys of unknown
// kinds, for encryption, symmetric, private, or too weak. An empty list is an
// answer too: the issuer withdrew all its keys.
func readKeySet(b []byte) ([]byte, error) {
	kept, err := usableKeys(b)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string][]jsontext.Value{"keys": kept})
}

func usableKeys(b []byte) ([]jsontext.Value, error) {
	var set struct {
		Keys *[]jsontext.Value `json:"keys"`
	}
	// The decoder's text may quote the document, so it stays here.
	if err := json.Unmarshal(b, &set); err != nil || set.Keys == nil {
		return nil, errors.New("is no JSON Web Key Set")
	}
	if len(*set.Keys) > maxKeys {
		return nil, fmt.Errorf("holds more than %d keys", maxKeys)
	}
	kept := []jsontext.Value{}
	for _, raw := range *set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && mayVerify(&key) {
			kept = append(kept, raw)
		}
	}
	return kept, nil
}

// mayVerify reports whether key is one that tokens may be signed with.
func mayVerify(key *jose.JSONWebKey) bool {
	switch key.Use {
	case "", "sig", "jwt-svid": // SPIFFE Trust Domain and Bundle, section 4.2.2
	default:
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // symmetric, or a private key that nobody should have published
}
