package authn

import (
	"testing"

	"github.com/google/cel-go/cel"
)

// An expression that is one claim goes round CEL; it must say what CEL would.
func TestAClaimIsWhatCELSaysItIs(t *testing.T) {
	t.Parallel()
	vars := claimsOfToken(map[string]any{
		"s": "text", "empty": "", "n": int64(7), "f": 1.5, "b": true, "none": nil, "l": []any{"a"}, "m": map[string]any{"s": "inner"},
	})
	for _, claim := range []string{"s", "empty", "n", "f", "b", "none", "l", "m", "missing"} {
		e, err := compileExpression("claims."+claim, cel.StringType)
		if err != nil {
			t.Fatal(err)
		}
		if e.claim != claim {
			t.Fatalf("claims.%s is not seen as one claim", claim)
		}
		got, gotErr := e.string(vars)
		e.claim = ""
		want, wantErr := e.string(vars)
		if got != want || (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
			t.Errorf("claims.%s: %q, %v; CEL says %q, %v", claim, got, gotErr, want, wantErr)
		}
	}
	for _, text := range []string{"claims.m.s", "has(claims.s)", "claims['s']", "claims.?s.orValue('')"} {
		e, err := compileExpression(text, cel.StringType, cel.BoolType)
		if err != nil {
			t.Fatal(err)
		}
		if e.claim != "" {
			t.Errorf("%s is taken for the claim %q", text, e.claim)
		}
	}
}
