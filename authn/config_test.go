package authn

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// TestEveryFaultIsReportedAtItsField has one config with every fault at once.
func TestEveryFaultIsReportedAtItsField(t *testing.T) {
	t.Parallel()
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := Config{
		Listen: "8443",
		Issuers: []Issuer{
			{},
			{
				Name: "Ci", URL: "http://issuer.example", CAFile: filepath.Join(t.TempDir(), "none.pem"),
				Audiences: []string{"tipstaff", ""}, Algorithms: []string{"RS256", "none", "HS256", "rs256"},
				MaxTokenAge: metav1.Duration{Duration: -1}, ClockSkew: metav1.Duration{Duration: time.Hour},
				Mappings: []Mapping{
					{},
					{
						Match: `claims.sub`, Subject: `claims.?sub`, Run: `claims.run_id +`, Model: `1`,
						Owner: `user.name`, Task: strings.Repeat(" ", maxExpressionBytes) + "''", Profile: `true`,
					},
					{Match: `"yes"`, Run: `claims.run`},
				},
			},
			{Name: "system", URL: "https://issuer.example?x=1", CAFile: noPEM, Audiences: []string{"a"}, Mappings: []Mapping{{Run: "'r'"}}},
			{Name: "system", URL: "https://issuer.example?x=1", Audiences: []string{"a"}, Mappings: []Mapping{{Run: "'r'"}}},
			{Name: "a:b", URL: "https://u:p@issuer.example", Audiences: []string{"a"}, Mappings: []Mapping{{Run: "'r'"}}},
		},
	}
	got := map[string]string{}
	for _, e := range bad.Validate(field.NewPath("authn"), &access.Limits{}) {
		if !strings.HasPrefix(e.Field, "authn.tls") {
			got[e.Field+" "+string(e.Type)] = e.Detail
		}
	}
	want := map[string]string{
		"authn.listen FieldValueInvalid":                         "host:port",
		"authn.issuers[0].name FieldValueRequired":               "agent:",
		"authn.issuers[0].url FieldValueRequired":                "iss claim",
		"authn.issuers[0].audiences FieldValueRequired":          "another service",
		"authn.issuers[0].mappings FieldValueRequired":           "at least one",
		"authn.issuers[1].name FieldValueInvalid":                "lower-case",
		"authn.issuers[1].url FieldValueInvalid":                 "https",
		"authn.issuers[1].caFile FieldValueInvalid":              "no such file",
		"authn.issuers[1].audiences[1] FieldValueRequired":       "empty",
		"authn.issuers[1].algorithms[1] FieldValueNotSupported":  "RS256",
		"authn.issuers[1].algorithms[2] FieldValueNotSupported":  "RS256",
		"authn.issuers[1].algorithms[3] FieldValueNotSupported":  "RS256",
		"authn.issuers[1].maxTokenAge FieldValueInvalid":         "negative",
		"authn.issuers[1].clockSkew FieldValueInvalid":           "10m",
		"authn.issuers[1].mappings[0].run FieldValueRequired":    "run",
		"authn.issuers[1].mappings[1].match FieldValueInvalid":   "whatever the claims are",
		"authn.issuers[1].mappings[1].subject FieldValueInvalid": "must give a string",
		"authn.issuers[1].mappings[1].run FieldValueInvalid":     "Syntax error",
		"authn.issuers[1].mappings[1].model FieldValueInvalid":   "must give a string, gives int",
		"authn.issuers[1].mappings[1].owner FieldValueInvalid":   "undeclared reference",
		"authn.issuers[1].mappings[1].task FieldValueInvalid":    "at most",
		"authn.issuers[1].mappings[1].profile FieldValueInvalid": "must give a string, gives bool",
		"authn.issuers[1].mappings[2].match FieldValueInvalid":   "must give a bool, gives string",
		"authn.issuers[2].name FieldValueInvalid":                "reserved",
		"authn.issuers[2].url FieldValueInvalid":                 "query",
		"authn.issuers[2].caFile FieldValueInvalid":              "no PEM",
		"authn.issuers[3].name FieldValueInvalid":                "reserved",
		"authn.issuers[3].url FieldValueInvalid":                 "query",
		"authn.issuers[3].name FieldValueDuplicate":              "",
		"authn.issuers[3].url FieldValueDuplicate":               "",
		"authn.issuers[4].name FieldValueInvalid":                "lower-case",
		"authn.issuers[4].url FieldValueInvalid":                 "password",
	}
	for _, at := range slices.Sorted(maps.Keys(want)) {
		if detail, ok := got[at]; !ok || !strings.Contains(detail, want[at]) {
			t.Errorf("%s: got %q (reported: %t), want %q in it", at, detail, ok, want[at])
		}
		delete(got, at)
	}
	for at, detail := range got {
		t.Errorf("also reported: %s: %s", at, detail)
	}
}

func TestAConfigWithoutTLSFilesOrIssuersIsRefused(t *testing.T) {
	t.Parallel()
	faults := func(c *Config) (at []string) {
		for _, e := range c.Validate(field.NewPath("authn"), &access.Limits{}) {
			at = append(at, e.Field)
		}
		return at
	}
	// Without either it is for the proxy alone.
	if at := faults(&Config{}); !slices.Equal(at, []string{"authn.issuers"}) {
		t.Errorf("faults: %v", at)
	}
	if at := faults(&Config{Listen: ":8443"}); !slices.ContainsFunc(at, func(f string) bool { return strings.HasPrefix(f, "authn.tls") }) {
		t.Errorf("authn.tls isn't reported: %v", at)
	}
	at := faults(&Config{TLS: httpserve.TLS{CertFile: "nowhere.crt"}})
	for _, want := range []string{"authn.listen", "authn.issuers"} {
		if !slices.Contains(at, want) {
			t.Errorf("%s isn't reported: %v", want, at)
		}
	}
	if !slices.ContainsFunc(at, func(f string) bool { return strings.HasPrefix(f, "authn.tls") }) {
		t.Errorf("authn.tls isn't reported: %v", at)
	}
}

func TestAGoodIssuerHasNoFaults(t *testing.T) {
	t.Parallel()
	is := newProvider(t).issuer()
	is.Algorithms = algorithms
	if errs := is.validate(field.NewPath("issuer")); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestNewRefusesWhatValidateWould(t *testing.T) {
	t.Parallel()
	good := newProvider(t).issuer()
	hmac, twice := good, good
	hmac.Algorithms = []string{"HS256"}
	twice.Name = "again"
	log := slog.New(slog.DiscardHandler)
	for name, issuers := range map[string][]Issuer{"HMAC": {hmac}, "the same URL twice": {good, twice}, "the same name twice": {good, newProvider(t).issuer()}} {
		if _, err := New(Config{Issuers: issuers}, access.Limits{}, revokedRuns{}, nil, log); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Issuers: []Issuer{good}}, access.Limits{}, nil, nil, log); err == nil {
		t.Error("no revocations: accepted")
	}
}
