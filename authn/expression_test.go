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
		for _, text := range []string{"claims." + claim, "claims.?" + claim + ".orValue('absent')"} {
			e, err := compileExpression(text, cel.StringType)
			if err != nil {
				t.Fatal(err)
			}
			if e.claim != claim {
				t.Fatalf("%s is not seen as one claim", text)
			}
			got, gotErr := e.string(vars)
			e.claim = ""
			want, wantErr := e.string(vars)
			if got != want || (gotErr == nil) != (wantErr == nil) || gotErr != nil && gotErr.Error() != wantErr.Error() {
				t.Errorf("%s: %q, %v; CEL says %q, %v", text, got, gotErr, want, wantErr)
			}
		}
	}
	for _, text := range []string{"claims.m.s", "has(claims.s)", "claims['s']", "claims.?m.?s.orValue('')", "claims.?s.orValue(claims.s)", "claims.?s.hasValue()", "dyn(claims).s"} {
		e, err := compileExpression(text, cel.StringType, cel.BoolType)
		if err != nil {
			t.Fatal(err)
		}
		if e.claim != "" {
			t.Errorf("%s is taken for the claim %q", text, e.claim)
		}
	}
}
