package authn

import (
	"context"
	"errors"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-json-experiment/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// verified is what a token that holds says. It is shared and never changed.
type verified struct {
	agent     v1alpha1.Agent
	access    []v1alpha1.Access // what its profile gives
	audiences []string          // of the issuer's configured ones, those the token is for
	mapping   string            // the mapping's label
	until     time.Time         // when the token ends, whatever else happens
	run       v1alpha1.RunKey
	by        *issuer
	keys      *keySet // that the signature was verified with
	user      []byte  // the user of the TokenReview answer, as JSON
}

// verify checks token in full and maps it. Errors are *RefusedError.
func (is *issuer) verify(ctx context.Context, token string, tr *trace) (*verified, error) {
	keys := is.keys.Load()
	if err := tr.step("keys", is.known(keys), tr.aboutKeys(is)); err != nil {
		return nil, is.refuse(outcomeUnavailable, "", err)
	}
	h, err := checkHeader(token, is.algorithms)
	if err := tr.step("header", err, tr.aboutHeader(is, h)); err != nil {
		return nil, is.refuse(outcomeRefused, "", err)
	}
	payload, outcome, err := keys.payload(ctx, token)
	if err := tr.step("signature", err, tr.aboutSignature(keys, h)); err != nil {
		return nil, is.refuse(outcome, "", err)
	}
	v, err := is.judge(payload, tr)
	if err != nil {
		return nil, err
	}
	v.keys = keys
	return v, nil
}

var errNoKeys = errors.New("the issuer has not answered yet, so its tokens can't be verified")

func (is *issuer) known(keys *keySet) error {
	if keys == nil {
		return errNoKeys
	}
	return nil
}

// payload gives the claims of a token whose signature holds. go-oidc's errors
// quote claims, so they go no further.
func (k *keySet) payload(ctx context.Context, token string) ([]byte, outcome, error) {
	var payload []byte
	if _, err := k.verifier.Verify(context.WithValue(ctx, payloadKey{}, &payload), token); err != nil {
		if ctx.Err() != nil {
			return nil, outcomeUnavailable, errors.New("the issuer's keys did not come in time")
		}
		return nil, outcomeRefused, errors.New("signature does not verify with the issuer's keys, or claims are malformed")
	}
	return payload, "", nil
}

// payloadKey is where a context holds the *[]byte that takes a verified payload.
type payloadKey struct{}

// handingOver is a key set that also hands the payload over which it verified:
// the bytes that were signed, which go-oidc's token gives only by way of JSON.
type handingOver struct{ oidc.KeySet }

// VerifySignature is of oidc.KeySet.
func (k handingOver) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.KeySet.VerifySignature(ctx, jwt)
	if to, ok := ctx.Value(payloadKey{}).(*[]byte); ok && err == nil {
		*to = payload
	}
	return payload, err
}

// judge checks and maps the claims of a token whose signature holds: everything
// but the signature and revocation. Errors are *RefusedError.
func (is *issuer) judge(payload []byte, tr *trace) (*verified, error) {
	no := func(mapping string, err error) (*verified, error) {
		return nil, is.refuse(outcomeRefused, mapping, err)
	}
	claims, err := decodeObject(payload)
	if err != nil {
		err = errors.New("claims are not one JSON object with distinct names")
	}
	tr.holds(claims)
	if err := tr.step("claims", err, nil); err != nil {
		return no("", err)
	}
	// go-oidc compared it too, but with names that differ in case.
	if iss, _ := claims["iss"].(string); iss != is.url {
		err = errors.New("token is of another issuer")
	}
	if err := tr.step("issuer", err, nil); err != nil {
		return no("", err)
	}
	v := &verified{by: is}
	v.audiences, err = acceptedAudiences(claims, is.audiences)
	if err := tr.step("audience", err, tr.aboutAudience(is)); err != nil {
		return no("", err)
	}
	when, err := timesOf(claims)
	if err == nil {
		err = when.check(is.now(), is.maxAge, is.skew)
	}
	if err := tr.step("times", err, tr.aboutTimes(is, when)); err != nil {
		return no("", err)
	}
	v.until = when.end(is.maxAge, is.skew)
	credential, err := credentialID(claims)
	if err := tr.step("token id", err, nil); err != nil {
		return no("", err)
	}
	if len(is.required) > 0 {
		if err := tr.step("required claims", checkRequired(is.required, claims), tr.aboutRequired(is)); err != nil {
			return no("", err)
		}
	}
	vars := claimsOfToken(claims)
	for _, r := range is.claimRules {
		if err := tr.step(r.label, r.check(vars, tr), nil); err != nil {
			return no("", err)
		}
	}
	m, err := is.choose(vars, tr)
	if err != nil {
		return nil, err
	}
	v.mapping = m.label
	v.agent, err = m.agent(is.name, vars, tr)
	if err := tr.step("names", labelled(m, err), nil); err != nil {
		return no(m.label, err)
	}
	v.agent.CredentialID = credential
	v.run = v.agent.Key()
	for _, r := range is.userRules {
		if err := tr.step(r.label, r.check(userOf(v.agent), tr), nil); err != nil {
			return no(m.label, err)
		}
	}
	v.access, err = is.profiles[v.agent.Profile].of(vars, tr)
	if err != nil {
		err = labelledProfile(v.agent.Profile, err)
	}
	if err := tr.step("profile", err, tr.aboutProfile(is, v.agent.Profile)); err != nil {
		return no(m.label, err)
	}
	if len(v.access) > 0 {
		v.agent.AccessKey = v1alpha1.AccessKeyOf(v.agent, v.access)
	}
	if v.user, err = json.Marshal(userOfAgent(v.agent), json.Deterministic(true)); err != nil {
		return no(m.label, errors.New("the identity cannot be encoded"))
	}
	return v, nil
}

var errNoMapping = errors.New("no mapping matches the token")

// choose finds the mapping that decides: the first that matches.
func (is *issuer) choose(vars *variable, tr *trace) (*mapping, error) {
	for _, m := range is.mappings {
		ok, err := m.matches(vars, tr)
		if err != nil {
			err = labelled(m, err)
			tr.fail("mapping", err)
			return nil, is.refuse(outcomeRefused, m.label, err)
		}
		tr.tried(m, ok)
		if ok {
			return m, nil
		}
	}
	tr.fail("mapping", errNoMapping)
	return nil, is.refuse(outcomeRefused, "", errNoMapping)
}
