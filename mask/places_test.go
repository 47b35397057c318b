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
	{"a list's key in managedFields", "widgets", `{"kind":"Widget","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"k:{\"token\":\"` + githubToken + `\"}":{}}}}]}}`, githubToken, "managedFields"},
	{"an annotation that is no JSON but looks so", "pods", `{"kind":"Pod","metadata":{"annotations":{"a":` + js(`{"x":{"--token=Zk93hsy2Lw0pQ"}}`) + `}}}`, "Zk93hsy2Lw0pQ", "annotations"},
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
	{"an element of a set, written with an escape", "databases", `{"kind":"Database","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"f:tokens":{"\u0076:\"` + githubToken + `\"":{}}}}}]}}`, githubToken, "f:tokens"},
	{"a list's key, written with an escape", "widgets", `{"kind":"Widget","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"k\u003a{\"token\":\"` + githubToken + `\"}":{}}}}]}}`, githubToken, "managedFields"},
	{"a manager's name", "widgets", `{"kind":"Widget","metadata":{"managedFields":[{"manager":"` + githubToken + `","fieldsV1":{"f:spec":{}}}]}}`, githubToken, "managedFields"},
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

// The same holds of weak credentials elsewhere than in Secrets, and of what
// quotes an object or calls a part of itself by another's name.
func TestGuessesInOtherObjectsLearnNothing(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	marks := func(s *Scoped, resource, in string) []string {
		var out bytes.Buffer
		if err := s.JSONOf(Ref{Resource: resource}, &out, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "4711") {
			t.Errorf("it passed: %s", out.String())
		}
		return anyMark.FindAllString(out.String(), -1)
	}
	const (
		template = `"spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"DB_PASSWORD","value":"4711"}]}]}}}`
		named    = `"metadata":{"namespace":"shop","name":"web"},`
		item     = `{` + named + template + `}`
		real     = `{"kind":"Deployment",` + named + template + `}`
		secret   = `{"kind":"Secret",` + named + `"stringData":{"password":"4711"}}`
	)
	one, of := marks(s, "deployments", real), marks(s, "secrets", secret)
	if len(one) != 1 || len(of) != 1 {
		t.Fatalf("marks %v and %v", one, of)
	}
	for name, in := range map[string]string{
		"read again":         real,
		"one of a list":      `{"kind":"DeploymentList","items":[{"metadata":{"name":"b","namespace":"shop"}},` + item + `]}`,
		"watched":            `{"type":"MODIFIED","object":` + real + `}`,
		"its name last":      `{"kind":"Deployment",` + template + `,` + strings.TrimSuffix(named, ",") + `}`,
		"as applied, quoted": `{"kind":"Deployment","metadata":{"annotations":{"` + lastApplied + `":` + js(`{"kind":"Deployment",`+template+`}`) + `},"namespace":"shop","name":"web"}}`,
	} {
		if got := marks(s, "deployments", in); len(got) != 1 || got[0] != one[0] {
			t.Errorf("%s it has %v, not %v", name, got, one)
		}
	}
	env := func(name string) string { return `{"kind":"ConfigMap","metadata":{` + name + `"annotations":` }
	for name, guess := range map[string][2]string{
		"a ConfigMap":                      {"configmaps", `{"kind":"ConfigMap","metadata":{"name":"guess","namespace":"shop"},"data":{"a_password":"4710","b_password":"4711"}}`},
		"one of the same name":             {"configmaps", `{"kind":"ConfigMap",` + named + `"data":{"password":"4711"}}`},
		"one of no name":                   {"configmaps", `{"kind":"ConfigMap","data":{"password":"4711"}}`},
		"its namesake elsewhere":           {"deployments", strings.Replace(real, "shop", "mine", 1)},
		"another Deployment":               {"deployments", strings.Replace(real, "web", "mine", 1)},
		"an annotation that quotes it":     {"configmaps", env(`"name":"guess",`) + `{"x":` + js(real) + `}}}`},
		"an annotation that quotes a list": {"configmaps", env(`"name":"guess",`) + `{"x":` + js(`[`+real+`,`+secret+`]`) + `}}}`},
		"one that quotes the Secret":       {"configmaps", env(`"name":"guess",`) + `{"x":` + js(secret) + `}}}`},
		"one of the same name that does":   {"configmaps", env(`"name":"web","namespace":"shop",`) + `{"x":` + js(secret) + `}}}`},
		"a part called by its name":        {"deployments", `{"kind":"Deployment","metadata":{"name":"guess"},"object":` + real + `}`},
		"a resource that calls itself one": {"widgets", real},
		"and one that does so of Secrets":  {"widgets", `{"kind":"WidgetList","items":[` + secret + `]}`},
		"an error that quotes it":          {"deployments", `{"kind":"Status","reason":"Invalid","message":` + js("x: Invalid value: "+real+": bad") + `}`},
		"an error about a password":        {"deployments", `{"kind":"Status","reason":"Invalid","message":"x password=4711 y"}`},
		"an error that quotes the Secret":  {"configmaps", `{"kind":"Status","reason":"Invalid","message":` + js("x: Invalid value: "+js(secret)+": bad") + `}`},
		"a table's cell":                   {"events", `{"kind":"Table","rows":[{"cells":["1s","password=4711 failed"]}]}`},
		"a Secret's number":                {"secrets", `{"kind":"Secret","metadata":{"name":"guess"},"data":{"x":4711}}`},
	} {
		got := marks(s, guess[0], guess[1])
		if len(got) == 0 {
			t.Errorf("%s has no mark", name)
		}
		for _, m := range got {
			if m == one[0] || m == of[0] {
				t.Errorf("%s shows the mark %s", name, m)
			}
		}
	}
	tried := marks(s.Unlinked(), "deployments", real)
	if again := marks(s.Unlinked(), "deployments", real); tried[0] == one[0] || tried[0] == again[0] {
		t.Errorf("dry runs show it: %s and %s", tried, again)
	}
	if a, b := marks(s, "secrets", `{"kind":"Secret","metadata":{"name":"a"},"data":{"x":4711}}`), marks(s, "secrets", `{"kind":"Secret","metadata":{"name":"b"},"data":{"x":4711}}`); a[0] == b[0] {
		t.Errorf("two Secrets' numbers share %v", a)
	}
	first, again := texted(t, s, "PASSWORD=4711\nPASSWORD=4711\n"), texted(t, s, "PASSWORD=4711\n")
	in, later := anyMark.FindAllString(first, -1), anyMark.FindAllString(again, -1)
	if len(in) != 2 || in[0] != in[1] || len(later) != 1 || later[0] == in[0] || in[0] == one[0] {
		t.Errorf("logs show %v and %v", in, later)
	}
	// A value that nobody guesses is the same everywhere.
	strong := s.String("Zr8-correct-horse-77Q")
	for _, in := range []string{real, `{"kind":"ConfigMap","metadata":{"name":"x"},"data":{"password":"4711"}}`} {
		var out bytes.Buffer
		if err := s.Unlinked().JSON(&out, strings.NewReader(strings.ReplaceAll(in, "4711", "Zr8-correct-horse-77Q"))); err != nil || !strings.Contains(out.String(), strong) {
			t.Errorf("%v: no %s in %s", err, strong, out.String())
		}
	}
	if got := texted(t, s, "PASSWORD=Zr8-correct-horse-77Q\n"); !strings.Contains(got, strong) {
		t.Errorf("no %s in %s", strong, got)
	}
}

// Weak or not, a mark that comes back is the value again.
func TestI8_AWeakValuesMarkComesBack(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	for resource, in := range map[string]string{
		"deployments": `{"kind":"Deployment","metadata":{"name":"web","namespace":"shop","annotations":{"` + lastApplied + `":` + js(`{"kind":"Deployment","x":{"adminPassword":"4712"}}`) + `}},"x":{"adminPassword":"4712"},"spec":{"containers":[{"env":[{"name":"DB_PASSWORD","value":"4711"}],"args":["--x=1 --password=4711 --token=4712 -v"]}]}}`,
		"configmaps":  `{"kind":"ConfigMap","metadata":{"name":"web","namespace":"shop"},"data":{"password":"4711","x":"a: 1\npassword: 4711\nb: 2\ntoken: 4712\n"}}`,
		"secrets":     `{"kind":"Secret","metadata":{"name":"web","namespace":"shop","annotations":{"x":"see password=4711 x"}},"data":{"password":"NDcxMQ=="}}`,
	} {
		var masked bytes.Buffer
		if err := s.JSONOf(Ref{Resource: resource}, &masked, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		o, err := s.Originals(Ref{Resource: resource}, []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		// Another text than was read, around the same marks.
		back := strings.NewReplacer("--x=1", "--x=2", "a: 1", "a: 7", " x\"", " y\"").Replace(masked.String())
		want := strings.NewReplacer("--x=1", "--x=2", "a: 1", "a: 7", " x\"", " y\"").Replace(in)
		v, err := decode([]byte(strings.TrimSpace(back)))
		if err != nil {
			t.Fatal(err)
		}
		if got := mustEncode(t, o.Restore(v)); HasMark(got) || got != mustEncode(t, parseRaw(t, want)) {
			t.Errorf("%s:\n got  %s\n want %s", resource, got, want)
		}
	}
}

func parseRaw(t *testing.T, in string) any {
	t.Helper()
	v, err := decode([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	return v
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
			if err := s.JSONOf(Ref{Resource: h.resource}, &halves, iotest.OneByteReader(strings.NewReader(in))); err != nil || unmarked(halves.String()) != unmarked(out.String()) {
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
