package webhook

import (
	"reflect"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

// celValue is a value as rules see it: maps and lists of it are decoded as far
// as a rule reads them. It is what the same value decoded whole would be, null
// where it is absent.
func celValue(v jsontree.Value) ref.Val {
	switch v.Kind() {
	case '{':
		return celMap{v}
	case '[':
		return celList{v}
	case '"':
		return types.String(v.String())
	case 't', 'f':
		return types.Bool(v.Kind() == 't')
	case '0':
		return types.DefaultTypeAdapter.NativeToValue(v.Decode())
	}
	return types.NullValue
}

// celMap is a JSON object: what rules read most is found without decoding the
// rest, and everything else is done by cel-go's own map.
type celMap struct{ v jsontree.Value }

var _ traits.Mapper = celMap{}

func (m celMap) whole() traits.Mapper {
	return types.NewStringInterfaceMap(types.DefaultTypeAdapter, m.v.Object())
}

// Find is the member of that name.
func (m celMap) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return m.whole().Find(key)
	}
	v := m.v.Get(string(name))
	if v.Kind() == 0 {
		return nil, false
	}
	return celValue(v), true
}

// Get is the member of that name, or an error.
func (m celMap) Get(key ref.Val) ref.Val {
	if v, found := m.Find(key); found {
		return v
	}
	return m.whole().Get(key)
}

// Contains reports whether there is a member of that name.
func (m celMap) Contains(key ref.Val) ref.Val {
	if _, ok := key.(types.String); !ok {
		return m.whole().Contains(key)
	}
	_, found := m.Find(key)
	return types.Bool(found)
}

// Size is the number of members.
func (m celMap) Size() ref.Val { return types.Int(m.v.Len()) }

// Iterator goes over the names.
func (m celMap) Iterator() traits.Iterator { return m.whole().Iterator() }

// Equal compares, as CEL does.
func (m celMap) Equal(other ref.Val) ref.Val {
	if o, ok := other.(traits.Mapper); !ok || o.Size() != m.Size() {
		return types.False
	}
	return m.whole().Equal(other)
}

// ConvertToNative converts to a Go type.
func (m celMap) ConvertToNative(t reflect.Type) (any, error) { return m.whole().ConvertToNative(t) }

// ConvertToType converts to a CEL type.
func (m celMap) ConvertToType(t ref.Type) ref.Val { return m.whole().ConvertToType(t) }

// Type is map.
func (m celMap) Type() ref.Type { return types.MapType }

// Value is the object decoded.
func (m celMap) Value() any { return m.v.Object() }

// celList is a JSON array, as celMap.
type celList struct{ v jsontree.Value }

var _ traits.Lister = celList{}

func (l celList) whole() traits.Lister {
	items, _ := l.v.Decode().([]any)
	return types.NewDynamicList(types.DefaultTypeAdapter, items)
}

// Get is the item of that number, or an error.
func (l celList) Get(index ref.Val) ref.Val {
	i, err := types.IndexOrError(index)
	if err != nil || i < 0 || i >= l.v.Len() {
		return l.whole().Get(index)
	}
	return celValue(l.v.Item(i))
}

// Size is the number of items.
func (l celList) Size() ref.Val { return types.Int(l.v.Len()) }

// Iterator goes over the items.
func (l celList) Iterator() traits.Iterator { return &celItems{list: l} }

// celItems are the items of a list in turn.
type celItems struct {
	ref.Val // an iterator is a value; nobody asks it for more than these
	list    celList
	next    int
}

// HasNext reports whether there is another.
func (i *celItems) HasNext() ref.Val { return types.Bool(i.next < i.list.v.Len()) }

// Next is the next item.
func (i *celItems) Next() ref.Val {
	i.next++
	return celValue(i.list.v.Item(i.next - 1))
}

// Add is both lists in one.
func (l celList) Add(other ref.Val) ref.Val { return l.whole().Add(other) }

// Contains reports whether value is an item.
func (l celList) Contains(value ref.Val) ref.Val { return l.whole().Contains(value) }

// Equal compares, as CEL does.
func (l celList) Equal(other ref.Val) ref.Val {
	if o, ok := other.(traits.Lister); !ok || o.Size() != l.Size() {
		return types.False
	}
	return l.whole().Equal(other)
}

// ConvertToNative converts to a Go type.
func (l celList) ConvertToNative(t reflect.Type) (any, error) { return l.whole().ConvertToNative(t) }

// ConvertToType converts to a CEL type.
func (l celList) ConvertToType(t ref.Type) ref.Val { return l.whole().ConvertToType(t) }

// Type is list.
func (l celList) Type() ref.Type { return types.ListType }

// Value is the array decoded.
func (l celList) Value() any { return l.v.Decode() }
