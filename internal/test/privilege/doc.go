// Package privilege holds the roles of template.yaml to what their holders do. It
// is read from the top:
//
//   - table.go says which permissions each API call needs, with its source;
//   - platform.go lists the permissions that only AWS itself uses for us;
//   - granted.go reads from the template what a role grants;
//   - decode.go reads from a request which calls it makes;
//   - record.go stands between a function and AWS, notes its calls, and refuses as
//     IAM does what its role does not grant.
//
// A role must grant what the calls of its holder need and what the platform
// needs, and nothing else. The test of that is in package system, where every
// function and the task run as they are compiled.
//
// Resources and conditions are written as template.yaml writes them, without what
// all of them begin with: "task/${Cluster}/*" for
// arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${Cluster}/*, and
// a resource of the template by its name there, "RecordsTable" for its ARN. What is
// an ARN by its Ref, as an alias is, keeps the brackets: "${SlackQueue}".
package privilege
