package authn

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// exportOf exports issuers that must be exportable.
func exportOf(t testing.TB, issuers ...Issuer) []byte {
	t.Helper()
	file, notes, err := Export(&Config{Issuers: issuers})
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) > 0 {
		t.Fatalf("unexpected notes: %q", notes)
	}
	return file
}

func TestExportIsWhatIsExpected(t *testing.T) {
	t.Parallel()
	got := exportOf(t, Issuer{
		Name: "github", URL: "https://token.actions.githubusercontent.com", Audiences: []string{"tipstaff", "other", "tipstaff"},
		MaxTokenAge:          metav1.Duration{Duration: time.Hour},
		RequiredClaims:       map[string]string{"repository_owner_id": "123456"},
		ClaimValidationRules: []ValidationRule{{Expression: "claims.ref_protected == 'true' // only those", Message: "branch must be protected"}},
		UserValidationRules:  []ValidationRule{{Expression: "!user.username.contains('/fork')", Message: "no forks"}},
		Mappings: []Mapping{
			{Match: "claims.event_name == 'push'", Subject: "claims.repository", Run: "claims.run_id", Owner: "claims.actor", Profile: "'deploy'"},
			{Match: "claims.event_name == 'pull_request'", Run: "claims.run_id"},
		},
	})
	golden := filepath.Join("testdata", "export", "github.yaml")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("export differs from %s (UPDATE_GOLDEN=1 writes it); got\n%s", golden, got)
	}
}

// TestExportSaysWhatItGivesUp holds the comment to the guarantees that an
// issuer loses; an admin who reads nothing else must see them.
func TestExportSaysWhatItGivesUp(t *testing.T) {
	t.Parallel()
	file := exportOf(t, newProvider(t, ecKey(t, "k1")).issuer())
	header, _, _ := strings.Cut(string(file), "\napiVersion:")
	for line := range strings.Lines(header) {
		if !strings.HasPrefix(line, "#") {
			t.Errorf("not a comment: %q", line)
		}
	}
	for _, word := range []string{"Revocation", "Run bindings", "maxTokenAge", "clockSkew", "algorithms", "EdDSA", "--authentication-config"} {
		if !strings.Contains(header, word) {
			t.Errorf("the comment doesn't speak of %s", word)
		}
	}
}

func TestExportSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	p := newProvider(t, ecKey(t, "k1"))
	with := func(name string, change func(*Issuer)) Issuer {
		is := p.issuer()
		is.Name = name
		change(&is)
		return is
	}
	good := with("good", func(*Issuer) {})
	for _, row := range []struct {
		name     string
		cfg      Config
		note     string
		issuers  int
		exported bool
	}{
		{"an issuer with a key-set file is left out", Config{Issuers: []Issuer{good, with("offline", func(is *Issuer) { is.URL, is.KeySetFile = "https://a.example", "keys.json" })}},
			`issuer "offline" is left out: its keys come from keySetFile, the API server only knows discovery`, 1, true},
		{"an issuer with EdDSA alone is left out", Config{Issuers: []Issuer{good, with("ed", func(is *Issuer) { is.URL, is.Algorithms = "https://a.example", []string{"EdDSA"} })}},
			`issuer "ed" is left out: the API server verifies no EdDSA signatures`, 1, true},
		{"EdDSA besides others is named", Config{Issuers: []Issuer{with("ed", func(is *Issuer) { is.Algorithms = []string{"EdDSA", "ES256"} })}},
			`issuer "ed": the API server refuses its tokens signed with EdDSA`, 1, true},
		{"profiles are named", Config{Issuers: []Issuer{good}, Profiles: []Profile{{Name: "deploy"}}},
			"profiles: the groups tipstaff:profile:<name> are given, the access behind them isn't; bind those groups by hand", 1, true},
		{"nothing left is an error", Config{Issuers: []Issuer{with("offline", func(is *Issuer) { is.KeySetFile = "keys.json" })}},
			`issuer "offline" is left out: its keys come from keySetFile, the API server only knows discovery`, 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			file, notes, err := Export(&row.cfg)
			if !row.exported {
				if !errors.Is(err, ErrNothingToExport) || file != nil {
					t.Errorf("got %v, %d bytes", err, len(file))
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(notes, []string{row.note}) {
				t.Errorf("notes %q, want %q", notes, row.note)
			}
			if got := strings.Count(string(file), "audienceMatchPolicy: MatchAny"); got != row.issuers {
				t.Errorf("%d issuers, want %d", got, row.issuers)
			}
			if row.exported && !strings.Contains(string(file), "# - "+row.note) {
				t.Error("the note doesn't stand in the file")
			}
		})
	}
}

// TestExportRefusesWhatWouldReadOtherwise: a name made from a number would be
// another one in the API server, so that RBAC and audit would split.
func TestExportRefusesWhatWouldReadOtherwise(t *testing.T) {
	t.Parallel()
	const number = "tells whole numbers from others"
	for _, row := range []struct {
		name, expression, want string
	}{
		{"a number as text is refused", "string(claims.run_number)", "string " + number},
		{"also behind a default", "string(claims.?run_number.orValue(0))", "string " + number},
		{"also in a list", "claims.runs.map(r, string(r))[0]", "string " + number},
		{"a number made whole is fine", "string(int(claims.run_number))", ""},
		{"formatting is refused", "'%d'.format([claims.run_number])", "format " + number},
		{"dividing is refused", "claims.n / 2 == 3 ? 'a' : 'b'", "/ " + number},
		{"a type is refused", "type(claims.n) == int ? 'a' : 'b'", "type " + number},
		{"adding a whole number is refused", "claims.n + 1 == 2 ? 'a' : 'b'", "+ " + number},
		{"comparing is fine", "claims.n > 1 ? 'a' : 'b'", ""},
		{"joining text is fine", "claims.a + '/' + claims.b", ""},
		{"an escaped name is refused", "claims.a__dot__b", `names with "__"`},
		{"so is one in brackets", "claims['a__dot__b']", `names with "__"`},
		{"any other text is fine", "claims.a + '__dot__'", ""},
		{"an email without email_verified is Kubernetes' to refuse", "claims.email", "claims.email_verified must be used"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			is := Issuer{Name: "ci", URL: "https://ci.example", Audiences: []string{"tipstaff"},
				Mappings: []Mapping{{Subject: row.expression, Run: "claims.run"}}}
			_, _, err := Export(&Config{Issuers: []Issuer{is}})
			switch {
			case row.want == "" && err != nil:
				t.Error(err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

// TestExportTakesOnlyCertificates: a caFile may hold its key too.
func TestExportTakesOnlyCertificates(t *testing.T) {
	t.Parallel()
	p := newProvider(t, ecKey(t, "k1"))
	is := p.issuer()
	cert, err := os.ReadFile(is.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	is.CAFile = filepath.Join(t.TempDir(), "both.pem")
	const private = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	if err := os.WriteFile(is.CAFile, slices.Concat([]byte("# comment\n"), []byte(private), cert), 0o600); err != nil {
		t.Fatal(err)
	}
	file := exportOf(t, is)
	var got struct {
		JWT []struct {
			Issuer struct {
				CertificateAuthority string `json:"certificateAuthority"`
			} `json:"issuer"`
		} `json:"jwt"`
	}
	if err := yaml.Unmarshal(file, &got); err != nil {
		t.Fatal(err)
	}
	if got.JWT[0].Issuer.CertificateAuthority != string(cert) || bytes.Contains(file, []byte("c2VjcmV0")) {
		t.Errorf("certificateAuthority is %q", got.JWT[0].Issuer.CertificateAuthority)
	}
}
