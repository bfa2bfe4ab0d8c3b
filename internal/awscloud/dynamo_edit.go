package awscloud

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// edit builds an update expression. All attributes go by a placeholder, because
// many plain words are reserved in expressions.
type edit struct {
	sets, removes []string
	names         map[string]string
	values        values
}

func (e *edit) set(attribute string, value types.AttributeValue) {
	e.names["#"+attribute] = attribute
	e.values[":"+attribute] = value
	e.sets = append(e.sets, "#"+attribute+" = :"+attribute)
}

func (e *edit) remove(attributes ...string) {
	for _, attribute := range attributes {
		e.names["#"+attribute] = attribute
		e.removes = append(e.removes, "#"+attribute)
	}
}

func (e *edit) expression() string {
	s := "SET " + strings.Join(e.sets, ", ")
	if len(e.removes) > 0 {
		s += " REMOVE " + strings.Join(e.removes, ", ")
	}
	return s
}
