package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuleFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string { return writeFile(t, filepath.Join(dir, name), text) }
	write("rules/team.yaml", `variables:
- name: isDelete
  expression: request.operation == 'DELETE' && variables.isAgent
rules:
- name: team-stop
  match: variables.isDelete
  verdict: deny
`)
	write("rules/broken.yaml", "rules:\n- name: broken\n  match: request.opration == 'DELETE'\n  verdict: deny\n- name: own\n  match: 'true'\n  verdict: deny\n")
	write("variables.yaml", "variables: [{name: a, expression: '1'}]\n")
	config := func(name, more string) string {
		return write(name, "webhook:\n  variables: [{name: isAgent, expression: \"agent.run != ''\"}]\n"+more)
	}
	const own = "  rules:\n  - {name: own, match: 'false', verdict: deny}\n"

	for _, tt := range []struct {
		name, more string
		want       string // the first and the last rule
		count      int    // 0: any
	}{
		{"a file alone is in force alone", "  ruleFiles: [rules/team.yaml]\n", "team-stop team-stop", 1},
		{"it stands after the configuration's own", own + "  ruleFiles: [rules/team.yaml]\n", "own team-stop", 2},
		{"the shipped set beside it", "  ruleFiles: [rules/team.yaml, default]\n", "team-stop system-namespaces", 0},
		{"the shipped set where nothing is named", "", "delete-namespace system-namespaces", 0},
	} {
		out, err := command(t, "rules", "list", "--config", config("c.yaml", tt.more))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")[1:]
		got := strings.Fields(lines[0])[0] + " " + strings.Fields(lines[len(lines)-1])[0]
		if got != tt.want || tt.count > 0 && len(lines) != tt.count {
			t.Errorf("%s: got %s of %d, want %s", tt.name, got, len(lines), tt.want)
		}
	}

	out, err := command(t, "rules", "test", "--config", config("c.yaml", "  ruleFiles: [rules/team.yaml]\n"), writeFile(t, filepath.Join(dir, "review.json"), aReview))
	if err != nil || !strings.Contains(out, "1 (100.0%) denied") {
		t.Errorf("a trial by an included rule: %v\n%s", err, out)
	}

	for _, tt := range []struct {
		name, more string
		want       []string
	}{
		{"a fault in a file is told there", "  ruleFiles: [rules/broken.yaml]\n", []string{filepath.Join(dir, "rules/broken.yaml") + ":3: rules[0].match: Invalid value"}},
		{"names are unique over all files", own + "  ruleFiles: [rules/broken.yaml]\n", []string{filepath.Join(dir, "rules/broken.yaml") + ":5: rules[1].name: Duplicate value: \"own\""}},
		{"and against the shipped set", "  rules: [{name: exec, match: 'true', verdict: deny}]\n  ruleFiles: [default]\n", []string{"c.yaml:4: webhook.ruleFiles[0].rules[", "].name: Duplicate value: \"exec\""}},
		{"a file named twice", "  ruleFiles: [rules/team.yaml, rules/team.yaml]\n", []string{"c.yaml:3: webhook.ruleFiles[1]: Duplicate value"}},
		{"no rule at all", "  ruleFiles: [variables.yaml]\n", []string{"c.yaml:3: webhook.ruleFiles[0]: Required value: no rule stands in any of these files"}},
		{"a file that isn't there", "  ruleFiles: [nothing.yaml]\n", []string{"c.yaml:3: webhook.ruleFiles[0]: can't be read"}},
	} {
		_, err := command(t, "rules", "list", "--config", config("c.yaml", tt.more))
		if err == nil {
			t.Errorf("%s: taken", tt.name)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s in it", tt.name, err, want)
			}
		}
	}
}

// The examples of the documentation are taken as they stand.
func TestDocumentedRules(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n## Rules\n")
	if !found {
		t.Fatal("the documentation has no section on rules")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "rules/team-shop.yaml"), "rules: [{name: shop, match: 'false', verdict: deny}]\n")
	blocks := strings.Split(section, "```yaml\n")[1:]
	for i, b := range blocks {
		text, _, _ := strings.Cut(b, "```")
		if out, err := command(t, "rules", "list", "--config", writeFile(t, filepath.Join(dir, "c.yaml"), text)); err != nil || !strings.Contains(out, "system-namespaces") {
			t.Errorf("example %d: %v\n%s", i, err, out)
		}
	}
	// Of the table, what stands last in a row.
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		rows++
		text := "webhook:\n  variables: [{name: prod, expression: 'true'}]\n  rules:\n  - name: r\n    verdict: deny\n    match: >-\n      " +
			strings.Trim(strings.TrimSpace(cells[2]), "`") + "\n"
		if _, err := command(t, "rules", "list", "--config", writeFile(t, filepath.Join(dir, "c.yaml"), text)); err != nil {
			t.Errorf("%s: %v", cells[0], err)
		}
	}
	if len(blocks) != 2 || rows != 8 {
		t.Errorf("found %d examples and %d variables", len(blocks), rows)
	}
}
