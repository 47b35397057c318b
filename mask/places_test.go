package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"testing/iotest"
)

// Credentials of known formats, none of them real.
const (
	githubToken = "ghp_a8Kd93jfLq0Zx7Vb2Nm5Qw1Er4Ty6Ui8Op9A"
	awsKey      = "AKIAQ3EGRIKZ5UVXZDQ7"
	jwt         = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhZ2VudCIsImF1ZCI6ImEifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU"
	privateKey  = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\nMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu\n-----END PRIVATE KEY-----\n"
)

func js(s string) string { return string(quoted(s)) }

// places is where else credentials stand.
var places = []struct {
	name, resource, in string
	secret             string // must not be there
	keeps              string // must still be there
}{
	{"an environment variable", "pods", `{"kind":"Pod","spec":{"containers":[{"name":"c","env":[{"name":"DB_PASSWORD","value":"swordfish"}]}]}}`, "swordfish", "DB_PASSWORD"},
	{"an environment variable, its value first", "deployments", `{"kind":"Deployment","spec":{"template":{"spec":{"initContainers":[{"env":[{"value":"swordfish","name":"apiKey"},{"name":"B","value":"kept"}]}]}}}}`, "swordfish", "kept"},
	{"one of a list", "pods", `{"kind":"PodList","items":[{"spec":{"containers":[{"env":[{"name":"SLACK_TOKEN","value":"swordfish"},{"name":"LOG","value":"info"}]}]}}]}`, "swordfish", "info"},
	{"one spelt with escapes", "pods", `{"kind":"Pod","spec":{"containers":[{"\u0065nv":[{"n\u0061me":"DB_P\u0041SSWORD","v\u0061lue":"swordf\u0069sh"}]}]}}`, "swordf", "containers"},
	{"one of a custom resource", "workflows", `{"kind":"Workflow","spec":{"templates":[{"container":{"env":[{"name":"PASSWORD","value":"swordfish"}]}}]}}`, "swordfish", "PASSWORD"},
	{"a known format under a harmless name", "pods", `{"kind":"Pod","spec":{"containers":[{"env":[{"name":"SETTING","value":"` + githubToken + `"}]}]}}`, githubToken, "SETTING"},
	{"a flag", "pods", `{"kind":"Pod","spec":{"containers":[{"args":["--port=80","--password=swordfish"]}]}}`, "swordfish", "--port=80"},
	{"a flag and its value", "pods", `{"kind":"Pod","spec":{"containers":[{"command":["run","--api-key","swordfish","--verbose"]}]}}`, "swordfish", "--verbose"},
	{"a shell's command", "pods", `{"kind":"Pod","spec":{"containers":[{"args":["-c","export PASSWORD=swordfish; mysql --password swordfish -h db"]}]}}`, "swordfish", "mysql"},
	{"a header in a command", "pods", `{"kind":"Pod","spec":{"containers":[{"args":["curl -H 'Authorization: Bearer swordfish123' http://x"]}]}}`, "swordfish123", "http://x"},
	{"an address", "deployments", `{"kind":"Deployment","spec":{"x":"postgres://shop:swordfish@db:5432/shop"}}`, "swordfish", "@db:5432/shop"},
	{"a ConfigMap's key", "configmaps", `{"kind":"ConfigMap","data":{"db.password":"swordfish","db.host":"db-1"}}`, "swordfish", "db-1"},
	{"a ConfigMap's YAML", "configmaps", `{"kind":"ConfigMap","data":{"app.yaml":` + js("server:\n  port: 80\ndb:\n  user: shop\n  password: sword fish, 1\n") + `}}`, "sword fish", "port: 80"},
	{"a ConfigMap's JSON", "configmaps", `{"kind":"ConfigMap","data":{"app.json":` + js(`{"port": 80, "client_secret": "swordfish"}`) + `}}`, "swordfish", "port"},
	{"a ConfigMap's properties", "configmaps", `{"kind":"ConfigMap","data":{"a.properties":` + js("spring.datasource.password=swordfish\nspring.port=80\n") + `}}`, "swordfish", "spring.port=80"},
	{"a ConfigMap's private key", "configmaps", `{"kind":"ConfigMap","data":{"x.pem":` + js(privateKey) + `}}`, "MzEfYyjiWA4R4", "x.pem"},
	{"a ConfigMap's binary data", "configmaps", `{"kind":"ConfigMap","binaryData":{"x":"` + base64.StdEncoding.EncodeToString([]byte("token="+githubToken)) + `"}}`, base64.StdEncoding.EncodeToString([]byte("token=" + githubToken)), "binaryData"},
	{"a ConfigMap of a list", "configmaps", `{"kind":"ConfigMapList","items":[{"metadata":{"name":"a"},"data":{"password":"swordfish"}}]}`, "swordfish", `"name":"a"`},
	{"what was applied to a ConfigMap", "configmaps", `{"kind":"ConfigMap","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(`{"kind":"ConfigMap","data":{"password":"swordfish"}}`) + `}}}`, "swordfish", "password"},
	{"what was applied to a Deployment", "deployments", `{"kind":"Deployment","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(`{"kind":"Deployment","spec":{"template":{"spec":{"containers":[{"env":[{"name":"TOKEN","value":"swordfish"}]}]}}}}`) + `}}}`, "swordfish", "TOKEN"},
	{"an annotation that quotes an object", "pods", `{"kind":"Pod","metadata":{"annotations":{"example.com/original":` + js(`{"kind":"Secret","stringData":{"x":"swordfish"}}`) + `}}}`, "swordfish", "stringData"},
	{"an annotation by name", "ingresses", `{"kind":"Ingress","metadata":{"annotations":{"example.com/auth-token":"swordfish"}}}`, "swordfish", "auth-token"},
	{"an annotation of a pod's template", "deployments", `{"kind":"Deployment","spec":{"template":{"metadata":{"annotations":{"example.com/password":"swordfish"}}}}}`, "swordfish", "example.com/password"},
	{"a compressed object on a Secret", "secrets", `{"kind":"Secret","metadata":{"annotations":{"objectset.rio.cattle.io/applied":"H4sIAAAAAAAA/swordfish"}}}`, "swordfish", "objectset"},
	{"a field by its name", "databases", `{"kind":"Database","spec":{"adminPassword":"swordfish","host":"db"}}`, "swordfish", `"db"`},
	{"a field's known format", "databases", `{"kind":"Database","spec":{"x":{"y":["` + awsKey + `"]}}}`, awsKey, `"y"`},
	{"a JSON web token anywhere", "databases", `{"kind":"Database","spec":{"x":"` + jwt + `"}}`, jwt, `"x"`},
	{"an event", "events", `{"kind":"Event","reason":"Failed","message":"login with password=swordfish failed"}`, "swordfish", "failed"},
	{"an event of events.k8s.io", "events", `{"kind":"Event","reason":"Failed","note":"cannot use token \"swordfish77\""}`, githubToken, "Failed"},
	{"a condition", "pods", `{"kind":"Pod","status":{"conditions":[{"type":"Ready","message":"dial postgres://u:swordfish@db: refused"}]}}`, "swordfish", "refused"},
	{"a table's cell", "events", `{"kind":"Table","rows":[{"cells":["1s","Failed","used ` + githubToken + ` in vain"]}]}`, githubToken, "in vain"},
	{"an element of a set in managed fields", "databases", `{"kind":"Database","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"f:tokens":{"v:\"` + githubToken + `\"":{}}}}}]}}`, githubToken, "f:tokens"},
	{"a certificate request's certificate", "certificatesigningrequests", `{"kind":"CertificateSigningRequest","status":{"certificate":"c3dvcmRmaXNo"}}`, "c3dvcmRmaXNo", "status"},
	{"an approved request's answer", "certificatesigningrequests/approval", `{"kind":"CertificateSigningRequest","status":{"certificate":"c3dvcmRmaXNo"}}`, "c3dvcmRmaXNo", "status"},
	{"an error that quotes a pod's environment", "pods", `{"kind":"Status","reason":"Invalid","message":` + js(`Pod "x" is invalid: spec: Forbidden: core.EnvVar{Name:"DB_PASSWORD", Value:"swordfish", ValueFrom:nil}`) + `}`, "swordfish", "Forbidden"},
	{"a patch's error that quotes the object", "configmaps", `{"kind":"Status","reason":"Invalid","message":` + js(`" \"\" is invalid: patch: Invalid value: "{\"kind\":\"ConfigMap\",\"data\":{\"password\":\"sword&fish\"}}": json: cannot unmarshal`) + `,"details":{"causes":[{"message":` + js(`Invalid value: "{\"kind\":\"ConfigMap\",\"data\":{\"password\":\"sword&fish\"}}": json`) + `}]}}`, "fish", "cannot unmarshal"},
	{"an error that quotes a template", "jobs", `{"kind":"Status","reason":"Invalid","message":` + js(`Job "x" is invalid: spec.template: Invalid value: {"spec":{"containers":[{"args":["--token","swordfish"]}]}}: field is immutable`) + `}`, "swordfish", "field is immutable"},
	{"an error that shows a difference", "pods", `{"kind":"Status","reason":"Invalid","message":"x","details":{"causes":[{"message":` + js("Forbidden: pod updates may not change\n@@ -108,7 +108,7 @@\n    \"Env\": [\n     {\n      \"Name\": \"DB_PASSWORD\",\n-     \"Value\": \"sword\\\"fish\",\n") + `}]}}`, "fish", "may not change"},
	{"an error that quotes one in JSON", "deployments", `{"kind":"Status","reason":"Invalid","message":` + js(`spec.env: Invalid value: {"name":"DB_PASSWORD","value":"swordfish"}`) + `}`, "swordfish", "DB_PASSWORD"},
}

func TestI7_ElsewhereThanInSecrets(t *testing.T) {
	t.Parallel()
	for _, tc := range places {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := scoped(t)
			resource, sub, _ := strings.Cut(tc.resource, "/")
			var out bytes.Buffer
			if err := s.JSONOf(Ref{resource, sub}, &out, iotest.OneByteReader(strings.NewReader(tc.in))); err != nil {
				t.Fatal(err)
			}
			got := out.String()
			if strings.Contains(got, tc.secret) {
				t.Errorf("it passed: %s", got)
			}
			if !strings.Contains(got, tc.keeps) {
				t.Errorf("%q is gone: %s", tc.keeps, got)
			}
			if !json.Valid(out.Bytes()) {
				t.Errorf("no JSON: %s", got)
			}
			if tc.name != "an event of events.k8s.io" && !strings.Contains(got, MarkPrefix) && !strings.Contains(got, base64Prefix[:8]) {
				t.Errorf("no mark: %s", got)
			}
			// Masked again it stays as it is.
			var again bytes.Buffer
			if err := s.JSONOf(Ref{resource, sub}, &again, strings.NewReader(got)); err != nil || strings.TrimSpace(again.String()) != strings.TrimSpace(got) {
				t.Errorf("masked again: %v\n%s\n%s", err, got, again.String())
			}
		})
	}
}

// plain is what must pass as it stands.
var plain = []struct{ name, resource, in string }{
	{"names and references of Secrets", "pods", `{"kind":"Pod","spec":{"serviceAccountName":"token-reader","volumes":[{"name":"v","secret":{"secretName":"db-password"}},{"name":"t","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}]}}],"containers":[{"name":"c","env":[{"name":"DB_PASSWORD","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}},{"name":"PASSWORD_FILE","value":"/etc/secret/password"},{"name":"TOKEN_TTL","value":"3600"},{"name":"SECRET_NAME","value":"db"},{"name":"USE_TOKEN","value":"true"},{"name":"PASSWORD","value":"$(OTHER)"}]}]}}`},
	{"a sentence", "events", `{"kind":"Event","message":"invalid token: expired; Secret \"db\" not found: password missing"}`},
	{"an event as it comes", "events", `{"kind":"Event","message":"MountVolume.SetUp failed for volume \"tls\" : secret \"web-tls\" not found"}`},
	{"a digest", "pods", `{"kind":"Pod","status":{"containerStatuses":[{"imageID":"docker.io/library/nginx@sha256:0d17b565c37bcbd895e9d92315a05c1c3c9a29f762b011a10c54a66cd53c9b31","containerID":"containerd://5b2d8f2c1f0e4a6f9d3b7c8a1e2f4d6b8a0c2e4f6a8b0d2f4a6c8e0f2b4d6f8a"}]}}`},
	{"probes and hosts", "pods", `{"kind":"Pod","spec":{"containers":[{"livenessProbe":{"httpGet":{"path":"/healthz?token=0","port":80}},"args":["--secret-dir=/etc/secrets","--token-file","/var/run/token","--key=value"]}]}}`},
	{"a certificate of the cluster", "configmaps", `{"kind":"ConfigMap","metadata":{"name":"kube-root-ca.crt"},"data":{"ca.crt":` + js("-----BEGIN CERTIFICATE-----\nMIIDBTCCAe2gAwIBAgIIQ0\n-----END CERTIFICATE-----\n") + `}}`},
	{"managed fields", "secrets", `{"kind":"ConfigMap","metadata":{"managedFields":[{"manager":"kubectl","fieldsV1":{"f:data":{".":{},"f:password":{}},"f:spec":{"k:{\"name\":\"app\"}":{}},"f:metadata":{"f:finalizers":{"v:\"example.com/protect\"":{}}}}}]}}`},
	{"white space", "pods", "{ \"kind\" : \"Pod\" ,\n\t\"spec\" : { \"n\" : -1.5e+3 , \"t\" : true , \"l\" : [ ] , \"o\" : { } } }"},
}

func TestWhatIsNoCredentialPasses(t *testing.T) {
	t.Parallel()
	for _, tc := range plain {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			resource := tc.resource
			if tc.name == "managed fields" {
				resource = "configmaps"
			}
			var out bytes.Buffer
			if err := scoped(t).JSONOf(Ref{Resource: resource}, &out, strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSuffix(out.String(), "\n"); got != tc.in {
				t.Errorf("got  %s\nwant %s", got, tc.in)
			}
		})
	}
}

func TestKnownValuesAreFoundElsewhere(t *testing.T) {
	t.Parallel()
	const value = "Zr8-correct horse-77Q"
	s := scoped(t)
	mask := func(resource, in string) string {
		var out bytes.Buffer
		if err := s.JSONOf(Ref{Resource: resource}, &out, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	elsewhere := []string{
		`{"kind":"ConfigMap","data":{"motd":` + js("hello "+value+" world") + `}}`,
		`{"kind":"Event","message":` + js("used "+value) + `}`,
		`{"kind":"ConfigMap","data":{"x":` + js("v: "+base64.StdEncoding.EncodeToString([]byte(value))) + `}}`,
		`{"kind":"Pod","metadata":{"annotations":{"a":` + js(value) + `}},"spec":{"containers":[{"args":[` + js("x"+value+"y") + `]}]}}`,
		`{"kind":"Status","reason":"Invalid","message":` + js("quota "+value+" exceeded") + `}`,
	}
	for _, in := range elsewhere {
		if got := mask("", in); !strings.Contains(got, value) && !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte(value))[:20]) {
			t.Errorf("masked before it was known: %s", got)
		}
	}
	secret := mask("secrets", `{"kind":"Secret","data":{"k":"`+base64.StdEncoding.EncodeToString([]byte(value))+`"}}`)
	for _, in := range elsewhere {
		got := mask("", in)
		if strings.Contains(got, value) || strings.Contains(got, base64.StdEncoding.EncodeToString([]byte(value))[:20]) {
			t.Errorf("it passed: %s", got)
		}
	}
	// It is recognised as the same.
	if got := mask("", elsewhere[0]); !strings.Contains(secret, base64.StdEncoding.EncodeToString([]byte(s.String(value)))) || !strings.Contains(got, s.String(value)) {
		t.Errorf("marks differ: %s and %s", secret, got)
	}
}

// A guess that an agent writes where it may, and reads back, must not show
// whether it is a Secret's value.
func TestGuessesLearnNothing(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	mask := func(in string) string {
		var out bytes.Buffer
		if err := s.JSON(&out, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	weak := "hunter2"
	value := func(answer string) string {
		_, v, _ := strings.Cut(answer, `"password":"`)
		v, _, _ = strings.Cut(v, `"`)
		return v
	}
	secret := `{"kind":"Secret","metadata":{"name":"real","namespace":"a"},"stringData":{"password":"` + weak + `"}}`
	mark := value(mask(secret))
	if !isMark(mark) || value(mask(secret)) != mark {
		t.Fatalf("the mark is %q", mark)
	}
	for _, guess := range []string{
		`{"kind":"ConfigMap","metadata":{"name":"real","namespace":"a"},"data":{"password":"` + weak + `"}}`,
		`{"kind":"Secret","metadata":{"name":"mine","namespace":"a"},"stringData":{"password":"` + weak + `"}}`,
		`{"metadata":{"name":"real","namespace":"a"},"stringData":{"password":"` + weak + `"}}`,
	} {
		if got := value(mask(guess)); !isMark(got) || got == mark {
			t.Errorf("%s shows %s, the Secret %s", guess, got, mark)
		}
	}
	var tried bytes.Buffer
	if err := s.Unlinked().JSON(&tried, strings.NewReader(secret)); err != nil || value(tried.String()) == mark {
		t.Errorf("a dry run shows it: %v %s", err, tried.String())
	}
	// A value that nobody guesses is the same everywhere.
	strong := "Zr8-correct-horse-77Q"
	one, two := strings.Replace(secret, weak, strong, 1), strings.Replace(strings.Replace(secret, weak, strong, 1), "real", "copy", 1)
	if value(mask(one)) != value(mask(two)) || value(mask(one)) != s.String(strong) {
		t.Errorf("%s and %s", mask(one), mask(two))
	}
	if in := `{"kind":"ConfigMap","data":{"motd":"` + weak + `"}}`; strings.TrimSpace(mask(in)) != in {
		t.Error("a weak value is looked for: it could be guessed")
	}
}

// Every place of a value within the blocks of the index, and every way of its
// coming in pieces.
func TestI7_WhateverTheAlignment(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	for _, h := range hides {
		if h.resource == "" && !strings.HasPrefix(h.in, `{"kind"`) {
			continue
		}
		for pad := range 2 * blockBytes {
			in := `{"pad":"` + strings.Repeat("x", pad) + `",` + h.in[1:]
			var out, halves bytes.Buffer
			if err := s.JSONOf(Ref{Resource: h.resource}, &out, strings.NewReader(in)); err != nil {
				t.Fatalf("%s, %d bytes on: %v", h.name, pad, err)
			}
			if leaks(out.String()) {
				t.Fatalf("%s, %d bytes on: it passed: %s", h.name, pad, out.String())
			}
			if err := s.JSONOf(Ref{Resource: h.resource}, &halves, iotest.OneByteReader(strings.NewReader(in))); err != nil || halves.String() != out.String() {
				t.Fatalf("%s, %d bytes on, byte by byte: %v\n%s\n%s", h.name, pad, err, halves.String(), out.String())
			}
			if v, err := decode([]byte(in)); err == nil {
				o := v.(map[string]any) //nolint:forcetypeassert // all of them are objects
				s.ObjectOf(Ref{Resource: h.resource}, o)
				if leaks(mustEncode(t, o)) {
					t.Fatalf("%s, %d bytes on, decoded: it passed: %s", h.name, pad, mustEncode(t, o))
				}
			}
		}
	}
}
