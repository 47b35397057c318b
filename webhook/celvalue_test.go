package webhook

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

// Whatever a rule does with an object, it comes out as if the object had been
// decoded whole.
func TestARuleSeesTheObjectAsIfDecoded(t *testing.T) {
	t.Parallel()
	env, err := celEnv()
	if err != nil {
		t.Fatal(err)
	}
	large := func(of string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, of+",", i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	objects := []string{
		`null`, `{}`, `{"a":null}`, `{"a":1}`, `{"a":-1.5}`, `{"a":"x"}`, `{"a":true}`, `{"a":[]}`, `{"a":{}}`, `{"a":"1"}`, `{"a":9223372036854775808}`,
		`{"a":[1,2,3]}`, `{"a":[1,2.0,"x",null,true,[1],{"b":1}]}`, `{"a":{"b":{"c":"d"}}}`, `{"a":{"b":[{"c":1},{"c":2}]}}`, `{"a":[{"b":{}},{"b":{"c":[]}}]}`,
		`{"\u0061":"\u00e9\n","b":"\"q\""}`, `{"a":["b"],"b":"b"}`, `{"a":{"x":1,"y":"2"},"b":{"y":"2","x":1.0}}`,
		`{"a":[` + large(`%d`, 100) + `],"b":50}`, `{"a":{` + large(`"k%d":{"b":1}`, 100) + `}}`,
	}
	expressions := []string{
		`object`, `object == null`, `object.a`, `object.?a`, `object.?a.?b.?c.orValue('none')`, `has(object.a)`, `has(object.a.b)`, `object['a']`, `object[?'a']`,
		`object.a == 1`, `object.a == 1.0`, `1.0 == object.a`, `object.a == 'x'`, `object.a == true`, `object.a == null`, `object.a == [1, 2, 3]`, `[1, 2, 3] == object.a`,
		`object.a == {}`, `{} == object.a`, `object.a == []`, `object.a == object.a`, `object.a == object.b`, `object.b == object.a`, `object.a != object.b`, `object == object`,
		`object == {'a': 1}`, `{'a': 1} == object`, `object.a.b == {'c': 'd'}`,
		`size(object)`, `size(object.a)`, `object.a.size()`, `'a' in object`, `1 in object.a`, `1.0 in object.a`, `'x' in object.a`, `null in object.a`, `[1] in object.a`, `1 in object`,
		`object.a[0]`, `object.a[1]`, `object.a[6]`, `object.a[-1]`, `object.a[1.0]`, `object.a['0']`, `object.a[?0]`, `object.a[?9]`, `object.a[50]`, `object.a['k50'].b`, `object[1]`,
		`object.a + [7]`, `[7] + object.a`, `object.a + object.a`, `object.a + 'y'`, `object.a + 1`, `object.a * 2`, `-object.a`, `object.a > 0`, `object.a < 'y'`,
		`object.a.all(x, x == 1)`, `object.a.exists(x, x == 2)`, `object.a.exists_one(x, x == 'x')`, `type(object.a) == list ? object.a.map(x, x) : []`, `type(object.a) == list ? object.a.filter(x, x != null) : []`, `object.a.map(x, x).size()`, `object.a.map(x, x.b)`,
		`object.a.all(k, object.a[k].b == 1)`, `object.all(k, k == 'a')`, `object.exists(k, object[k] == 'b')`, `object.map(k, object[k]).size()`, `object.a.b.map(x, x.c)`, `object.a.exists(x, x == object.b)`,
		`type(object)`, `type(object.a)`, `type(object.a) == list`, `type(object.a) == map`, `string(object.a)`, `int(object.a)`, `double(object.a)`, `dyn(object).a`, `string(object)`,
		`object.a.matches('^x$')`, `object.a.startsWith('x')`, `object.a.size() > 50 && object.a[99] == 99`, `object.a.isSorted()`, `object.a.sum()`, `object.a.min()`, `object.a.indexOf(2)`,
		`[object.?a].exists(o, o.hasValue() && o.value() == 1)`, `[object.?a.?b, object.?b].exists(o, o.orValue('') == 'b')`, `object.a ? 1 : 2`, `!object.a`, `object.a && true`,
		`object.a in [dyn('x'), dyn(1), dyn([1, 2, 3])]`, `{'k': object.a}.k == object.a`, `[object.a, object.b].exists(x, x == 'b')`, `sets.contains(object.a, [1])`,
		`object.a.join(',')`, `quantity(object.a).isInteger()`, `object.a.?b.hasValue()`, `object.?a[?0].orValue('none')`, `object.?a.optMap(x, size(x)).orValue(-1)`,
	}
	compared := 0
	for _, expression := range expressions {
		ast, issues := env.Compile(expression)
		if issues.Err() != nil {
			t.Errorf("%s: %v", expression, issues.Err())
			continue
		}
		program, err := env.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			v, err := jsontree.Parse([]byte(object))
			if err != nil {
				t.Fatal(err)
			}
			var whole any
			if m := v.Object(); m != nil {
				whole = m
			}
			lazy, _, lazyErr := program.Eval(map[string]any{"object": celValue(v)})
			want, _, wantErr := program.Eval(map[string]any{"object": whole})
			switch {
			case (lazyErr == nil) != (wantErr == nil):
				t.Errorf("%s of %.80s: error %v, want %v", expression, object, lazyErr, wantErr)
			case lazyErr == nil && (!same(lazy, want) || !same(want, lazy)):
				t.Errorf("%s of %.80s: %v, want %v", expression, object, lazy.Value(), want.Value())
			case lazyErr == nil:
				compared++
			}
		}
	}
	if compared < 300 {
		t.Errorf("only %d values were compared", compared)
	}
}

func same(a, b ref.Val) bool {
	if o, ok := a.(*types.Optional); ok {
		p, ok := b.(*types.Optional)
		return ok && o.HasValue() == p.HasValue() && (!o.HasValue() || same(o.GetValue(), p.GetValue()))
	}
	return a.Type() == b.Type() && a.Equal(b) == types.True
}
