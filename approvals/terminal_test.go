package approvals

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestAnAgentCantWriteToTheTerminal(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, line, want string }{
		{"an escape sequence is its text", "+a\x1b[2K\x1b[1Ab", `+a\u001b[2K\u001b[1Ab`},
		{"a carriage return goes back nowhere", "-evil\r+good", `-evil\u000d+good`},
		{"a backspace wipes nothing", "-x\b\b+y", `-x\u0008\u0008+y`},
		{"a C1 control starts no sequence", "+\u009b2J", `+\u009b2J`},
		{"a direction override turns nothing", "+\u202egnp", `+\u202egnp`},
		{"a line separator is no new line", "+a\u2028-b", `+a\u2028-b`},
		{"a next-line is no new line", "+a\u0085-b", `+a\u0085-b`},
		{"a zero width is seen", "+pro\u200bd", `+pro\u200bd`},
		{"a blank that is no space is seen", "+a\u00a0b\u3164c\u2800", `+a\u00a0b\u3164c\u2800`},
		{"a tab is no space", "+a\tb", "+a→   b"},
		{"a broken byte is seen", "+a\xffb", `+a\xffb`},
		{"a mark with nothing to stand on is seen", "\u0301+", `\u0301+`},
		{"writing that needs marks stays", "+cafe\u0301 हिन्दी", "+cafe\u0301 हिन्दी"},
		{"marks do not pile up", "+a\u0301\u0301\u0301\u0301", "+a\u0301\u0301\u0301" + `\u0301`},
	} {
		var b bytes.Buffer
		if err := (Screen{}).WriteDiff(&b, tc.line); err != nil || b.String() != tc.want+"\n" {
			t.Errorf("%s: %q %v, want %q", tc.name, b.String(), err, tc.want)
		}
	}
}

func TestALongLineForgesNoOther(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	// The terminal's own break would put the second sign at a row's start.
	if err := (Screen{Width: 40}).WriteDiff(&b, "-"+strings.Repeat(" ", 39)+"+replicas: 3\n+replicas: 0\n"); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(rows) != 3 || rows[0][0] != '-' || !strings.HasPrefix(rows[1], continued) || rows[2] != "+replicas: 0" {
		t.Errorf("%q", rows)
	}
}

func TestTheDifferenceIsPainted(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := (Screen{Color: true}).WriteDiff(&b, "--- before\n+++ after\n@@ -1 +1 @@\n--- old\n+new\n same\n"); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[1m--- before\x1b[0m\n\x1b[1m+++ after\x1b[0m\n\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m--- old\x1b[0m\n\x1b[32m+new\x1b[0m\n same\n"
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
}

func FuzzWriteDiff(f *testing.F) {
	for _, s := range []string{"", "+a\n-b\n", "+\x1b[2J\r\b", "\u202e\u2028\u0301", "+" + strings.Repeat("字", 90), "a\xff\t\n\n"} {
		f.Add(s, uint8(30), true)
	}
	f.Fuzz(func(t *testing.T, diff string, width uint8, color bool) {
		s := Screen{Width: int(width), Color: color}
		var b bytes.Buffer
		if err := s.WriteDiff(&b, diff); err != nil {
			t.Fatal(err)
		}
		out := b.String()
		if color {
			for _, sgr := range []string{sgrReset, sgrBold, sgrDim, sgrRed, sgrGreen, sgrCyan, sgrY} {
				out = strings.ReplaceAll(out, sgr, "")
			}
		}
		if !utf8.ValidString(out) {
			t.Fatalf("broken text: %q", out)
		}
		starts := 0
		for row := range strings.Lines(out) {
			row = strings.TrimSuffix(row, "\n")
			if strings.ContainsFunc(row, func(r rune) bool { return unicode.IsControl(r) || hidden(r) }) {
				t.Fatalf("a row reaches past the text: %q", row)
			}
			if width > 0 && columns(row) > max(int(width), minWidth)+8 { // one glyph may be an escape
				t.Fatalf("a row is longer than the terminal is wide: %q", row)
			}
			if !strings.HasPrefix(row, continued) {
				starts++
			}
		}
		want := strings.Count(strings.TrimSuffix(diff, "\n"), "\n") + 1
		if diff == "" {
			want = 0
		}
		if !strings.Contains(diff, "↪") && starts != want {
			t.Fatalf("%d lines became %d: %q", want, starts, out)
		}
	})
}

func TestShowSaysEverything(t *testing.T) {
	t.Parallel()
	at := metav1.NewTime(noon)
	a := pending()
	a.CreationTimestamp = at
	a.Spec.Action, a.Spec.Risk, a.Spec.Message = "scale deployment shop/web to 0", "high", "nobody is served then"
	a.Spec.Request = v1alpha1.Request{Operation: "UPDATE", Group: "apps", Version: "v1", Resource: "deployments", Subresource: "scale", Namespace: "shop", Name: "web"}
	a.Spec.Agent.Task, a.Spec.Agent.Model = "tidy\nDenied: by nobody", "m-1"
	a.Spec.Quorum, a.Spec.BreakGlass = 2, []string{"on-call"}
	a.Spec.Diff, a.Spec.DiffBytes = "--- before\n+++ after\n-replicas: 3\n+replicas: 0\n", 9000
	broke := decision("alice", v1alpha1.VerdictApprove)
	broke.BreakGlass = true
	a.Status.Decisions = []v1alpha1.Decision{broke, decision("olga", v1alpha1.VerdictApprove)}
	var b bytes.Buffer
	if err := (Screen{}).Show(&b, a, noon.Add(30*time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Approval:   a1\n", "Phase:      ", "of 2 approvals", "Action:     scale deployment shop/web to 0\n",
		"Request:    UPDATE deployments/scale (apps/v1) web in namespace shop\n", "Risk:       high\n", "Rule:       delete-namespace\n",
		"Message:    nobody is served then\n", "Agent:      agent:ci:bot\n", "Run:        r\n", "Issuer:     ci\n", "Model:      m-1\n", "Owner:      olga\n",
		`Task:       tidy\u000aDenied: by nobody` + "\n", "Approvers:  2 of group sre-oncall; not the run's owner\n",
		"Break-glass: one of group on-call alone, with a reason\n", "BREAK-GLASS by alice via kubectl at ", ": because\n",
		"by olga via kubectl", "does not count", "NOT ALL OF IT: what follows are 47 of the change's 9000 bytes\n", "-replicas: 3\n+replicas: 0\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	a.Status.Use = &v1alpha1.Use{At: at, Outcome: &v1alpha1.Outcome{Code: 409, Message: "try\x1bagain"}}
	a.Status.Cancelled = &v1alpha1.Cancellation{At: at, Reason: "gone astray"}
	b.Reset()
	if err := (Screen{}).Show(&b, a, noon); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Phase:      Used", `Outcome:    the API server answered 409, nothing was changed: try\u001bagain`, "is revoked: gone astray"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
}

// An approver must not read that nothing happened where that isn't proven: a
// client can have a change answered with 400 after it was stored.
func TestShowClaimsNoRefusalThatIsNotProven(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		operation       string
		code, tries     int32
		outcome, reason string
	}{
		{"DELETE", 200, 0, "done (200)", "Used"},
		{"DELETE", 400, 0, "the API server answered 400, it may have taken effect", "AnsweredWithError"},
		{"DELETE", 406, 0, "the API server answered 406, it may have taken effect", "AnsweredWithError"},
		{"DELETE", 409, 0, "the API server answered 409, nothing was changed", "RefusedLater"},
		{"DELETE", 409, 1, "the API server answered 409, this last try changed nothing", "RefusedLater"},
		{"CREATE", 403, 0, "the API server answered 403, nothing was changed", "RefusedLater"},
		{"CONNECT", 403, 0, "the API server answered 403, it may have taken effect", "AnsweredWithError"},
		{"UPDATE", 500, 0, "the API server answered 500, it may have taken effect", "AnsweredWithError"},
	} {
		a := pending()
		a.Spec.Request = v1alpha1.Request{Operation: tc.operation, Version: "v1", Resource: "namespaces", Namespace: "demo", Name: "demo"}
		a.Status.Use = &v1alpha1.Use{At: metav1.NewTime(noon), Tries: tc.tries, Outcome: &v1alpha1.Outcome{Code: tc.code, At: metav1.NewTime(noon)}}
		setConditions(a, v1alpha1.PhaseUsed, noon)
		var b bytes.Buffer
		if err := (Screen{}).Show(&b, a, noon); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "Outcome:    "+tc.outcome+"\n") || !strings.Contains(b.String(), "Request:    "+tc.operation+" namespaces (v1) demo\n") {
			t.Errorf("%s %d:\n%s", tc.operation, tc.code, &b)
		}
		used := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionUsed)
		if used.Reason != tc.reason || tc.code >= 400 && !strings.HasSuffix(used.Message, tc.outcome[strings.Index(tc.outcome, ","):]) {
			t.Errorf("%s %d: condition %s: %s", tc.operation, tc.code, used.Reason, used.Message)
		}
	}
}

func TestDecisionValidate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ö", maxReasonRunes)
	for _, tc := range []struct {
		name string
		d    Decision
		want string
	}{
		{"an approval needs no reason", Decision{Verdict: v1alpha1.VerdictApprove}, ""},
		{"a denial needs one", Decision{Verdict: v1alpha1.VerdictDeny, Reason: " "}, "a denial needs a reason"},
		{"break-glass needs one", Decision{Verdict: v1alpha1.VerdictApprove, BreakGlass: true}, "break-glass needs a reason"},
		{"break-glass denies nothing", Decision{Verdict: v1alpha1.VerdictDeny, Reason: "r", BreakGlass: true}, "a denial needs none"},
		{"as long as may be", Decision{Verdict: v1alpha1.VerdictApprove, Reason: long}, ""},
		{"longer", Decision{Verdict: v1alpha1.VerdictApprove, Reason: long + "x"}, "has 1025 characters"},
		{"two lines", Decision{Verdict: v1alpha1.VerdictApprove, Reason: "a\nb"}, "one line of text"},
		{"turned round", Decision{Verdict: v1alpha1.VerdictApprove, Reason: "a\u202eb"}, "one line of text"},
	} {
		if err := tc.d.Validate(); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
