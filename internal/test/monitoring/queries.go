package monitoring

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Query is a saved query of CloudWatch Logs Insights. Its lines are those whose field has
// the text Value, or, if Value is empty, is a number above zero.
type Query struct {
	Name   string   // without the folder
	Groups []string // the logical IDs of the log groups
	Field  string
	Value  string
	Shows  []string // the fields of the lines that the query shows or adds up
}

// Queries returns the saved queries of a template, in the order of their names.
func (t Template) Queries() ([]Query, error) {
	var all []Query
	for id, resource := range t.Resources {
		if resource.Type != "AWS::Logs::QueryDefinition" {
			continue
		}
		name, text, groups := resource.Properties["Name"], resource.Properties["QueryString"], resource.Properties["LogGroupNames"]
		q, err := parseQuery(text.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		var isInFolder bool
		if q.Name, isInFolder = strings.CutPrefix(name.Value, "${AWS::StackName}/"); !isInFolder {
			return nil, fmt.Errorf("%s: the name %q does not begin with the stack's folder", id, name.Value)
		}
		for _, group := range groups.Content {
			q.Groups = append(q.Groups, group.Value)
		}
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b Query) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// The part of the query language that the saved queries use. Source:
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html
var (
	isText   = regexp.MustCompile(`^filter (\w+) = "(\w+)"$`)
	isAbove0 = regexp.MustCompile(`^filter (\w+) > 0$`)
	column   = regexp.MustCompile("^(\\w+|`\\w+`|@timestamp)$")
	sum      = regexp.MustCompile(`^(?:sum|count_distinct)\((\w+)\) as (\w+)$`)
	order    = regexp.MustCompile(`^sort (@?\w+) desc$`)
)

func parseQuery(text string) (q Query, err error) {
	commands := strings.Split(strings.TrimSpace(text), "\n| ")
	if len(commands) != 4 {
		return q, fmt.Errorf("the query has %d commands, want four:\n%s", len(commands), text)
	}
	if match := isText.FindStringSubmatch(commands[0]); match != nil {
		q.Field, q.Value = match[1], match[2]
	} else if match := isAbove0.FindStringSubmatch(commands[0]); match != nil {
		q.Field = match[1]
	} else {
		return q, fmt.Errorf("the tests do not support %q", commands[0])
	}
	var sortable []string
	if list, ok := strings.CutPrefix(commands[1], "fields "); ok {
		for name := range strings.SplitSeq(list, ", ") {
			if !column.MatchString(name) {
				return q, fmt.Errorf("the tests do not support the field %q", name)
			}
			sortable = append(sortable, name)
			if name != "@timestamp" { // CloudWatch adds it
				q.Shows = append(q.Shows, strings.Trim(name, "`"))
			}
		}
	} else if list, by, ok := strings.Cut(strings.TrimPrefix(commands[1], "stats "), " by "); ok && column.MatchString(by) {
		q.Shows = append(q.Shows, by)
		for each := range strings.SplitSeq(list, ", ") {
			match := sum.FindStringSubmatch(each)
			if match == nil {
				return q, fmt.Errorf("the tests do not support %q", each)
			}
			q.Shows, sortable = append(q.Shows, match[1]), append(sortable, match[2])
		}
	} else {
		return q, fmt.Errorf("the tests do not support %q", commands[1])
	}
	if match := order.FindStringSubmatch(commands[2]); match == nil || !slices.Contains(sortable, match[1]) {
		return q, fmt.Errorf("%q does not sort by one of %q", commands[2], sortable)
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(commands[3], "limit ")); err != nil || n < 1 || n > 10_000 {
		return q, fmt.Errorf("%q is no limit up to 10,000", commands[3])
	}
	return q, nil
}

// Find returns the lines of a log, parsed as JSON, that the query finds.
func (q Query) Find(lines []map[string]any) (found []map[string]any) {
	for _, line := range lines {
		number, _ := line[q.Field].(float64)
		if text, ok := line[q.Field].(string); q.Value != "" && ok && text == q.Value || q.Value == "" && number > 0 {
			found = append(found, line)
		}
	}
	return found
}

// Missing returns the fields that the query shows and that none of the lines has.
func (q Query) Missing(lines []map[string]any) (missing []string) {
	for _, name := range q.Shows {
		if !slices.ContainsFunc(lines, func(line map[string]any) bool { return line[name] != nil && line[name] != "" }) {
			missing = append(missing, name)
		}
	}
	return missing
}
