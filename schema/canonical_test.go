package schema

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

// fill gives an event with every field set, which fails when a field of a kind that
// isn't known here is added.
func fill(t *testing.T) *Event {
	t.Helper()
	e := &Event{}
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		set(t, v.Field(i), i+1)
	}
	return e
}

func set(t *testing.T, f reflect.Value, i int) {
	t.Helper()
	text := string(rune('a'+i%26)) + "\xff\x00'\"\\\n" + time.Duration(i).String()
	switch f.Interface().(type) {
	case string:
		f.SetString(text)
	case bool:
		f.SetBool(true)
	case uint16:
		f.SetUint(uint64(i))
	case time.Time:
		f.Set(reflect.ValueOf(time.Date(2026, 11, 30, 10, 0, i, 123456789, time.FixedZone("x", 3600))))
	case []string:
		f.Set(reflect.ValueOf([]string{text, "", text}))
	case map[string]string:
		f.Set(reflect.ValueOf(map[string]string{text: "", "": text, "z": "y"}))
	default:
		t.Fatalf("canonical bytes know no %s: AppendCanonical must", f.Type())
	}
}

// Every field is in the canonical bytes: without it they are others.
func TestCanonicalHasEveryField(t *testing.T) {
	t.Parallel()
	whole := fill(t).AppendCanonical(nil)
	if !bytes.Equal(whole, fill(t).AppendCanonical(nil)) {
		t.Fatal("they differ from one time to the next")
	}
	for i := range reflect.TypeFor[Event]().NumField() {
		e := fill(t)
		reflect.ValueOf(e).Elem().Field(i).SetZero()
		if bytes.Equal(e.AppendCanonical(nil), whole) {
			t.Errorf("field %s is not in it", reflect.TypeFor[Event]().Field(i).Name)
		}
	}
}

// What moves from one place to the one beside it is something else.
func TestCanonicalTellsPlacesApart(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for i, e := range []Event{
		{}, {User: "ab"}, {User: "a", Impersonator: "b"}, {Impersonator: "ab"}, {Groups: []string{"ab"}}, {Groups: []string{"a", "b"}},
		{Groups: []string{"a"}, SourceIPs: []string{"b"}}, {Groups: []string{"", "ab"}}, {Annotations: map[string]string{"a": "b"}},
		{Annotations: map[string]string{"b": "a"}}, {Annotations: map[string]string{"ab": ""}}, {Proxied: true}, {DryRun: true}, {Code: 1}, {Code: 256},
	} {
		key := string(e.AppendCanonical(nil))
		if j, twice := seen[key]; twice {
			t.Errorf("events %d and %d have the same bytes", j, i)
		}
		seen[key] = i
	}
}

// A row read from the store has the bytes of the one that was written.
func TestCanonicalOutlastsTheStore(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	want := []Event{*fill(t), {Cluster: "c", AuditID: "bare", Received: time.UnixMicro(1), StageTime: time.UnixMicro(2)}}
	if err := Insert(t.Context(), conn, want); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		var got []Event
		if err := conn.Select(t.Context(), &got, `SELECT * FROM tipstaff.audit_events WHERE audit_id = ?`, want[i].AuditID); err != nil || len(got) != 1 {
			t.Fatalf("%d rows, %v", len(got), err)
		}
		if a, b := want[i].AppendCanonical(nil), got[0].AppendCanonical(nil); !bytes.Equal(a, b) {
			t.Errorf("event %d:\nwritten %q\nread    %q", i, a, b)
		}
		if got[0].Key() != want[i].Key() {
			t.Errorf("key %v became %v", want[i].Key(), got[0].Key())
		}
	}
}

// What is told of a row tells every part of its key, and its hash.
func TestChainRowsHaveTheirWholeKey(t *testing.T) {
	t.Parallel()
	whole := ChainRow{"c", "k", time.UnixMicro(1), "a", "s", time.UnixMicro(2), "p", 3, 4, 5}
	seen := map[string]string{string(whole.AppendCanonical(nil)): "the whole"}
	for i := range reflect.TypeFor[ChainRow]().NumField() {
		name := reflect.TypeFor[ChainRow]().Field(i).Name
		r := whole
		reflect.ValueOf(&r).Elem().Field(i).SetZero()
		key := string(r.AppendCanonical(nil))
		if other, same := seen[key]; same != (name == "Batch" || name == "Place") {
			t.Errorf("without %s it has the bytes of %s", name, other)
		}
		seen[key] = name
	}
}
