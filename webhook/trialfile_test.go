package webhook

import (
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
)

const agentReview = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"DELETE","kind":{"group":"","version":"v1","kind":"Namespace"},` +
	`"resource":{"group":"","version":"v1","resource":"namespaces"},"name":"prod","userInfo":{"username":"agent:ci:coder","groups":["tipstaff:agents"],` +
	`"extra":{"tipstaff.dev/run":["run-1"],"tipstaff.dev/issuer":["ci"]}}}}`

func TestReadReviews(t *testing.T) {
	t.Parallel()
	inYAML, err := yaml.JSONToYAML([]byte(agentReview))
	if err != nil {
		t.Fatal(err)
	}
	y := string(inYAML)
	person := strings.ReplaceAll(agentReview, "tipstaff:agents", "devs")
	for name, row := range map[string]struct {
		file                   string
		agents, others, faults int
	}{
		"one in JSON":                          {agentReview, 1, 0, 0},
		"a line each":                          {agentReview + "\n" + person + "\n\n", 1, 1, 0},
		"one in YAML":                          {y, 1, 0, 0},
		"many in YAML":                         {"# reviews\n---\n" + y + "---\n" + y + "---\n", 2, 0, 0},
		"a List":                               {`{"kind":"List","apiVersion":"v1","items":[` + agentReview + "," + person + `]}`, 1, 1, 0},
		"a bad one in a List":                  {`{"kind":"List","items":[{},` + agentReview + `]}`, 1, 0, 1},
		"a bad one among YAML documents":       {y + "---\na: [\n---\n" + y, 2, 0, 1},
		"another kind among YAML documents":    {y + "---\nkind: Pod\n---\n" + y, 2, 0, 1},
		"after broken JSON nothing is found":   {agentReview + "{]" + agentReview, 1, 0, 1},
		"a field given twice":                  {strings.Replace(agentReview, `"uid":"1"`, `"uid":"1","uid":"2"`, 1), 0, 0, 1},
		"a field given twice, in YAML":         {y + "kind: AdmissionReview\n", 0, 0, 1},
		"a List with its items given twice":    {`{"kind":"List","items":[],"items":[` + agentReview + `]}`, 0, 0, 1},
		"a review of the old version":          {strings.Replace(agentReview, "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1), 0, 0, 1},
		"a review above the webhook's bound":   {strings.Replace(agentReview, `"uid":"1"`, `"uid":"`+strings.Repeat("x", maxReviewBytes)+`"`, 1), 0, 0, 1},
		"no text at all":                       {"", 0, 0, 0},
		"something else than a list or object": {"hello", 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var agents, others, faults int
			for tr, err := range ReadReviews(strings.NewReader(row.file), "f.yaml", nil) {
				switch {
				case err != nil:
					faults++
					if !errors.Is(err, ErrUnreadable) || !strings.HasPrefix(err.Error(), "f.yaml, document ") {
						t.Errorf("got %v", err)
					}
				case tr.NotJudged == notAnAgent:
					others++
				case tr.NotJudged == "" && tr.Agent.Run == "run-1" && tr.Agent.Issuer == "ci":
					agents++
				default:
					t.Errorf("got %+v", tr)
				}
			}
			if agents != row.agents || others != row.others || faults != row.faults {
				t.Errorf("got %d of agents, %d of others, %d faults; want %d, %d, %d", agents, others, faults, row.agents, row.others, row.faults)
			}
		})
	}
}

func TestReadReviewsStopsWhenAsked(t *testing.T) {
	t.Parallel()
	n := 0
	for _, err := range ReadReviews(strings.NewReader(`{"kind":"List","items":[`+agentReview+","+agentReview+"]}\n"+agentReview), "f", nil) {
		if n++; err != nil {
			t.Error(err)
		}
		break
	}
	if n != 1 {
		t.Errorf("got %d", n)
	}
}

// Whatever a file holds, each request from it is one that the webhook would
// have read, and each error says which file and quotes nothing of it.
func FuzzReadReviews(f *testing.F) {
	f.Add([]byte(agentReview))
	f.Add([]byte(agentReview + "\n{]"))
	f.Add([]byte("---\nkind: List\nitems: []\n---\na: &a [*a]\n"))
	f.Add([]byte(`{"kind":"List","items":[null,1,` + agentReview + `]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for tr, err := range ReadReviews(strings.NewReader(string(b)), "f", nil) {
			if n++; n > len(b)+1 {
				t.Fatal("more documents than bytes")
			}
			if err != nil {
				if !errors.Is(err, ErrUnreadable) || len(err.Error()) > 200 {
					t.Errorf("got %v", err)
				}
				continue
			}
			if tr.Request == nil || tr.Request.UID == "" || tr.Request.Operation == "" {
				t.Errorf("got %+v, which %v", tr.Request, admissionreview.ErrMalformed)
			}
		}
	})
}
